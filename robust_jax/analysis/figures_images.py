"""Figures made of images: adversarial twins, input gradients, first-layer filters."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_jax.analysis import style
from robust_jax.analysis.diversity import gradient_statistics
from robust_jax.analysis.style import AnyArray


def _show(axes: Axes, picture: Float[np.ndarray, "h w k"]) -> None:
    """Draws an image; one channel is grey."""
    grey = picture.shape[-1] == 1
    axes.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _signed(values: np.ndarray) -> np.ndarray:
    """Returns a picture of signed numbers: 0 is middle grey, the largest size black or white."""
    largest = np.max(np.abs(values))
    return 0.5 + 0.5 * values / (largest if largest > 0 else 1)


@style.quiet()
def image_twins(
    images: Float[AnyArray, "b h w k"],
    perturbed: Float[AnyArray, "b h w k"],
    *,
    names: Sequence[str] = (),
    perturbed_names: Sequence[str] = (),
) -> Figure:
    """Returns images above their adversarial twins and the differences between them.

    The differences are amplified by one factor, which is written beside them: the largest that
    keeps all in the range of pixels.

    Args:
        images: clean, pixels in [0, 1]; about eight fit.
        perturbed: the same under an attack.
        names: above each image, what it is.
        perturbed_names: above each twin, what it is taken for.

    Example:
        >>> from robust_jax.analysis import image_twins
        >>> images = np.full((3, 8, 8, 3), 0.5, np.float32)
        >>> figure = image_twins(images, images + 0.1, names=["cat", "dog", "ship"])
        >>> len(figure.axes), figure.axes[0].get_title()
        (9, 'cat')
    """
    clean, twins = np.asarray(images), np.asarray(perturbed)
    style.check_some("images", clean)
    largest = np.max(np.abs(twins - clean))
    gain = 0.5 / largest if largest > 0 else 1.0
    rows = {
        "clean": (clean, names),
        "adversarial": (twins, perturbed_names),
        f"difference\n$\\times$ {gain:.3g}": (np.clip(0.5 + gain * (twins - clean), 0, 1), ()),
    }
    size = min(1.2, (style.WIDTH - 0.9) / len(clean))
    longest = max(map(len, (*names, *perturbed_names)), default=1)
    font = min(8.0, 72 * size / (0.68 * longest))
    figure = style.new_figure(3 * (size + 0.2), 0.9 + size * len(clean))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03)
    grid = figure.subplots(3, len(clean), squeeze=False)
    for row, (kind, (pictures, titles)) in zip(grid, rows.items(), strict=True):
        for number, axes in enumerate(row):
            _show(axes, pictures[number])
            if titles:
                axes.set_title(style.name(titles[number]), fontsize=font, pad=2)
        row[0].set_ylabel(kind, rotation=0, ha="right", va="center", fontsize=8)
    return figure


@style.quiet()
def gradient_pictures(
    image: Float[AnyArray, "h w k"],
    gradients: Float[AnyArray, "m h w k"],
    names: Sequence[str],
) -> Figure:
    """Returns an image, each member's gradient there, and the cosines between them (PARL, fig. 1).

    Each gradient is scaled by its largest number; middle grey is 0.

    Args:
        image: pixels in [0, 1].
        gradients: of each member's loss, `member_gradients`, of at least two members.
        names: of the members.

    Example:
        >>> from robust_jax.analysis import gradient_pictures
        >>> image, gradients = np.full((8, 8, 3), 0.5), np.zeros((2, 8, 8, 3))
        >>> gradients[:, 0, 0] = 1.0  # `member_gradients`
        >>> figure = gradient_pictures(image, gradients, ["first", "second"])
        >>> len(figure.axes)
        4
    """
    style.check_some("gradients", gradients)
    statistics = gradient_statistics(jnp.asarray(gradients)[:, None])
    cosine = np.eye(len(gradients))
    first, second = np.triu_indices(len(gradients), 1)
    cosine[first, second] = cosine[second, first] = np.asarray(statistics.cosine)[:, 0]
    num_pictures = len(gradients) + 2
    size = min(1.4, style.WIDTH / num_pictures)
    figure = style.new_figure(size + 0.3, size * num_pictures)
    grid = figure.subplots(1, num_pictures)
    _show(grid[0], np.asarray(image))
    grid[0].set_title("image", fontsize=8)
    for axes, name, gradient in zip(grid[1:-1], names, np.asarray(gradients), strict=True):
        _show(axes, _signed(gradient))
        axes.set_title(style.name(name), fontsize=8)
    axes = grid[-1]
    axes.imshow(cosine, cmap=style.DIVERGING, vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(cosine):
        axes.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=6,
            color="white" if abs(value) > 0.6 else "black",
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title("cosines", fontsize=8)
    return figure


@style.quiet()
def filter_sheet(
    kernel: Float[AnyArray, "rows columns k out"],
    grid: tuple[int, int],
    *,
    scale: Literal["filter", "sheet"] = "filter",
) -> Figure:
    """Returns a first layer's filters, each where kernel pooling has it (KAP, figures 3 and A3).

    Middle grey is a weight of 0.

    Args:
        kernel: of the first convolution, of grey or colour images.
        grid: rows and columns of the filters, `KernelPool.grid(out)`; filter c lies in row
            c // columns.
        scale: the largest weight of each "filter", or of the whole "sheet", is black or white.

    Raises:
        ValueError: the filters do not fill the grid, or are neither of grey nor of colour images.

    Example:
        >>> from robust_jax.analysis import filter_sheet
        >>> kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 8))
        >>> figure = filter_sheet(kernel, grid=(2, 4))  # `KernelPool.grid(8)`
        >>> len(figure.axes[0].images)
        1
    """
    weights = np.asarray(kernel)
    height, width, num_channels, num_filters = weights.shape
    if grid[0] * grid[1] != num_filters:
        raise ValueError(f"Expected grid={grid} to hold the {num_filters} filters.")
    if num_channels not in (1, 3):
        raise ValueError(f"Expected channels={num_channels} to be 1 or 3.")
    filters = np.moveaxis(weights, -1, 0)
    pictures = (
        np.stack([_signed(each) for each in filters]) if scale == "filter" else _signed(filters)
    )
    # Each weight is four by four pixels, three pixels lie between filters.
    tall, wide = 4 * height + 3, 4 * width + 3
    sheet = np.ones((grid[0] * tall - 3, grid[1] * wide - 3, num_channels))
    for number, picture in enumerate(pictures):
        top, left = number // grid[1] * tall, number % grid[1] * wide
        enlarged = picture.repeat(4, axis=0).repeat(4, axis=1)
        sheet[top : top + tall - 3, left : left + wide - 3] = enlarged
    side = min(style.WIDTH / sheet.shape[1], 4.5 / sheet.shape[0])
    figure = style.new_figure(side * sheet.shape[0], side * sheet.shape[1])
    _show(figure.subplots(), sheet)
    return figure
