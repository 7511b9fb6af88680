"""Images on the host: checks, decoding, resizing, cropping, padding; uint8 [h w k] throughout."""

import io
import math
import re
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

# Modes that convert to 8-bit grey or RGB without clipping; 16-bit and float modes do not.
_CONVERTIBLE_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"}) | {
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
}
# How Pillow names stored values of more than 8 bits: it opens "RGB;16B" as RGB, cut to 8.
_DEEP = re.compile(r";(9|[1-9]\d)[A-Z]+$")
CHANNELS, MOST_CHANNELS = (1, 3), 4
"""Of grey and of coloured images; of what an axis is not taken for a side of one."""

_NUM_ATTEMPTS = 10
NUM_CROP_DRAWS = 4 * _NUM_ATTEMPTS


def check_images(images: ArrayLike, name: str = "images") -> None:
    """Returns nothing if `images` is a valid array of images.

    Args:
        images: a concrete NumPy or JAX array; [b h w k], uint8, or floating in [0, 1].
        name: what the error calls it.

    Raises:
        ValueError: the rank, the dtype or a value is wrong (NaN counts as outside), or the second
            axis looks like channels and the last two like sides: PyTorch's [b k h w].

    Example:
        >>> from robust_jax.data import check_images
        >>> check_images(np.zeros((2, 4, 4, 3), np.uint8))
        >>> check_images(np.full((2, 4, 4, 3), 255.0))
        Traceback (most recent call last):
            ...
        ValueError: Expected images with values in [255, 255] in [0, 1].
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"Expected {name} of shape {images.shape} to be [b h w k].")
    check_layout(images.shape, name)
    if images.dtype == np.uint8:
        return
    if not np.issubdtype(images.dtype, np.floating) and images.dtype.name != "bfloat16":
        raise ValueError(f"Expected {name} of dtype {images.dtype} to be uint8 or floating.")
    if images.size:
        low, high = float(images.min()), float(images.max())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"Expected {name} with values in [{low:g}, {high:g}] in [0, 1].")


def check_layout(shape: tuple[int, ...], name: str = "images") -> None:
    """Raises ValueError where four axes look like PyTorch's [b k h w]."""
    if shape[1] in CHANNELS and min(shape[2:]) > MOST_CHANNELS:
        raise ValueError(
            f"Expected {name} of shape {tuple(shape)} to be [b h w k], not [b k h w]: "
            "images.transpose(0, 2, 3, 1)."
        )


def check_labels(labels: ArrayLike, num_classes: int, name: str = "labels") -> None:
    """Returns nothing if `labels` is a vector of integers in [0, num_classes).

    Args:
        labels: a concrete array, [b].
        num_classes: how many there are.
        name: what the error calls it.

    Raises:
        ValueError: the rank, the dtype or a value is wrong; the first bad row is named.

    Example:
        >>> from robust_jax.data import check_labels
        >>> check_labels(np.array([0, 2]), num_classes=3)
        >>> check_labels(np.array([0, 3]), num_classes=3)
        Traceback (most recent call last):
            ...
        ValueError: Expected labels[1]=3 in [0, 3).
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Expected {name} of shape {labels.shape} and dtype {labels.dtype} to be integers [b]."
        )
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if bad.size:
        row = int(bad[0])
        raise ValueError(f"Expected {name}[{row}]={labels[row]} in [0, {num_classes}).")


def decode_image(encoded: bytes, channels: int, name: str) -> np.ndarray:
    """Returns a JPEG, PNG, ... file's pixels as uint8 [h w channels].

    Grey, palette, CMYK and transparent images are converted to the channels asked for (an alpha
    channel is dropped). Pixels are as they are stored, as torchvision reads them: orientation in
    EXIF and colour profiles are not applied; of several frames it is the first.

    Args:
        encoded: the file's bytes.
        channels: 1 (grey) or 3 (RGB).
        name: the file or row, for the error.

    Raises:
        ValueError: the file does not decode, or has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            stored = _deep(image)
            image.load()
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        reason = str(error).replace("\n", " ")
        raise ValueError(f"Expected {name} to be a decodable image: {reason}.") from error
    if stored is not None or image.mode not in _CONVERTIBLE_MODES:
        kind = stored or f"mode {image.mode}"
        raise ValueError(
            f"Expected {name} of {kind} to have 8 bits a channel; scale its values to 0 .. 255."
        )
    if "transparency" in image.info:
        image = image.convert("RGBA")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    pixels = np.asarray(image)
    return pixels[:, :, None] if channels == 1 else pixels


def _deep(image: Image.Image) -> str | None:
    """Returns how an opened, not yet decoded image stores more than 8 bits; None if it does not."""
    for tile in getattr(image, "tile", ()):
        found = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        for value in found:
            if isinstance(value, str) and _DEEP.search(value):
                return f"stored values {value}"
            # PPM's largest value stands beside the mode.
            if tile[0].startswith("ppm") and isinstance(value, int) and value > 255:
                return f"stored values up to {value}"
    return None


def resize(
    image: np.ndarray, height: int, width: int, box: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Returns the image (or its box left, top, right, bottom) resized, bilinear, antialiased."""
    grey = image.shape[2] == 1
    source = Image.fromarray(image[:, :, 0] if grey else image)
    resized = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR, box=box))
    return resized[:, :, None] if grey else resized


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the central square of an image that is at least `size` high and wide."""
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def resized_crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: np.ndarray,
) -> tuple[int, int, int, int]:
    """Returns the (left, top, right, bottom) of a random crop of the given area and aspect.

    Area share uniform in `scale`, aspect ratio log-uniform in `ratio`, ten attempts, then the
    largest central crop with an allowed aspect ratio.

    References:
        Szegedy et al., "Going deeper with convolutions", 2015, sect. 6; the attempts and the last
        resort are those of torchvision's RandomResizedCrop.
    """
    for share, aspect, top, left in draws.reshape(-1, 4):
        area = height * width * (scale[0] + share * (scale[1] - scale[0]))
        log_ratio = math.log(ratio[0]) + aspect * (math.log(ratio[1]) - math.log(ratio[0]))
        crop_width = round(math.sqrt(area * math.exp(log_ratio)))
        crop_height = round(math.sqrt(area / math.exp(log_ratio)))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            y = int(top * (height - crop_height + 1))
            x = int(left * (width - crop_width + 1))
            return x, y, x + crop_width, y + crop_height
    aspect = min(max(width / height, ratio[0]), ratio[1])
    crop_width = min(width, round(height * aspect))
    crop_height = min(height, round(width / aspect))
    x, y = (width - crop_width) // 2, (height - crop_height) // 2
    return x, y, x + crop_width, y + crop_height


@dataclass(frozen=True)
class Transform:
    """Brings every image to one size: resize (and crop), then pad with zeros.

    Attributes:
        image_size: side of the square image after resizing; None leaves the size alone.
        resize_to: length of the shorter side before the central crop to `image_size`; None
            resizes both sides straight to `image_size`, whatever the aspect ratio.
        pad_to: side of the square image after zero padding on all sides (an odd remainder goes to
            the bottom and the right).
        crop_scale: range of the area share of a random resized crop; None for no random crop.
        crop_ratio: range of its aspect ratio.
    """

    image_size: int | None = None
    resize_to: int | None = None
    pad_to: int | None = None
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, image: np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
        """Returns the image at its final size; with draws and `crop_scale`, of a random crop."""
        size = self.image_size
        if size is not None:
            height, width = image.shape[:2]
            if self.crop_scale is not None and draws is not None:
                box = resized_crop_box(height, width, self.crop_scale, self.crop_ratio, draws)
                image = resize(image, size, size, box)
            elif self.resize_to is not None:
                shorter = min(height, width)
                # The longer side is cut off to whole pixels, as by torchvision's Resize.
                height = max(size, int(self.resize_to * height / shorter))
                width = max(size, int(self.resize_to * width / shorter))
                image = center_crop(resize(image, height, width), size)
            elif (height, width) != (size, size):
                image = resize(image, size, size)
        return image if self.pad_to is None else self.pad(image)

    def pad(self, images: np.ndarray) -> np.ndarray:
        """Returns [... h w k] padded with zeros to `pad_to` on both sides."""
        if self.pad_to is None:
            return images
        height, width = images.shape[-3:-1]
        if max(height, width) > self.pad_to:
            raise ValueError(f"Expected pad_to={self.pad_to} >= image size {height} x {width}.")
        before = [(self.pad_to - side) // 2 for side in (height, width)]
        after = [self.pad_to - side - b for side, b in zip((height, width), before, strict=True)]
        lead = [(0, 0)] * (images.ndim - 3)
        return np.pad(images, [*lead, (before[0], after[0]), (before[1], after[1]), (0, 0)])
