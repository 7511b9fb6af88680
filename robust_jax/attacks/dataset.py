"""Attacks over as many images as there are, on the host, in batches of one or two sizes."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array
from numpy.typing import ArrayLike
from rich.progress import track

from robust_jax.attacks.base import Attack
from robust_jax.attacks.checks import check_batch
from robust_jax.runtime.live import held
from robust_jax.types import KeyArray, View


def leading_sharding(images: ArrayLike) -> NamedSharding | None:
    """Returns how the leading axis of images that lie on several devices is split, else None.

    Raises:
        ValueError: some lie on other hosts, or the sharding is no `NamedSharding`.
    """
    if not isinstance(images, jax.Array):
        return None
    if not images.is_fully_addressable:
        raise ValueError(f"Expected images={images.sharding} to lie on this host's devices alone.")
    sharding = images.sharding
    if len(sharding.device_set) == 1:
        return None
    if not isinstance(sharding, NamedSharding):
        raise ValueError(f"Expected images.sharding={sharding} to be a NamedSharding.")
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))


class Batches:
    """Examples handed out in full batches, the last one padded; or also in quarters of one.

    Where the images are split over devices, so is every batch, whose sizes are then rounded up
    to a multiple of the number of devices.
    """

    def __init__(
        self,
        batch_size: int,
        images: ArrayLike,
        labels: ArrayLike,
        index: ArrayLike,
        *,
        quarters: bool = False,
    ) -> None:
        self.sharding = leading_sharding(images)
        num_devices = 1 if self.sharding is None else self.sharding.mesh.size

        def divisible(size: int) -> int:
            return -(-size // num_devices) * num_devices

        self.full = divisible(batch_size)
        self.quarter = divisible(-(-batch_size // 4)) if quarters else self.full
        self.images, labels, index = map(np.asarray, (images, labels, index))
        # One dtype for whatever integers a caller has; others are refused by who checks them.
        self.labels, self.index = (
            each.astype(jnp.result_type(int)) if np.issubdtype(each.dtype, np.integer) else each
            for each in (labels, index)
        )
        check_batch(self.images, self.labels, self.index)

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)

    def of(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[Array, Array, Array]]]:
        """Yields parts of the rows, each with its images, labels, index, padded by a row."""
        while len(rows):
            # A full batch costs no more than the quarters that it would be cut into.
            size = self.full if len(rows) > self.full - self.quarter else self.quarter
            part, rows = rows[:size], rows[size:]
            padded = np.concatenate([part, np.repeat(part[:1], size - len(part))])
            arrays = self.images[padded], self.labels[padded], self.index[padded]
            yield part, jax.device_put(arrays, self.sharding)


def over_dataset(
    attack: Attack,
    view: View,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    key: KeyArray,
    batch_size: int,
    progress: bool = True,
    starts: ArrayLike | None = None,
) -> np.ndarray:
    """Returns the adversarial images of a whole dataset, and shows a progress bar.

    Every batch has `batch_size` images, the last one padded, so that one program is compiled. The
    result does not depend on the batch size: each image's draws come from its row.

    Args:
        attack: the attack.
        view: the model under attack.
        images: clean images [n ...]; where they are split over devices, so is every batch.
        labels: class of each image.
        key: root of all draws.
        batch_size: images at a time.
        progress: show the bar?
        starts: images that the attack may begin at, see `Attack`.

    Raises:
        ValueError: the batch size is not positive, or what the attack raises.

    Example:
        >>> from robust_jax.attacks import FGSM, ThreatModel, as_view, over_dataset
        >>> view = as_view(lambda images: 9 * images)  # two pixels, two classes
        >>> images, labels = np.full((5, 2), [0.6, 0.5], np.float32), np.zeros(5, np.int32)
        >>> attack, key = FGSM(ThreatModel("linf", 0.1)), jax.random.key(0)
        >>> over_dataset(
        ...     attack, view, images, labels, key=key, batch_size=2, progress=False
        ... ).argmax(1).tolist()
        [1, 1, 1, 1, 1]
    """
    if batch_size < 1:
        raise ValueError(f"Expected batch_size={batch_size} >= 1.")
    batches = Batches(batch_size, images, labels, np.arange(np.shape(labels)[0]))
    adversarial = np.empty_like(batches.images)
    total = -(-len(batches) // batches.full)
    parts = track(
        batches.of(np.arange(len(batches))),
        description=type(attack).__name__,
        total=total,
        disable=not progress,
    )
    view = held(view)
    for rows, (part, part_labels, index) in parts:
        images = attack(view, part, part_labels, key=key, index=index, starts=starts)
        adversarial[rows] = jax.device_get(images)[: len(rows)]
    return adversarial
