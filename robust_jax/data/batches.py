"""Batches of a split: gathered on the device, or streamed through grain; the same either way."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Float, Int, Shaped, UInt8

from robust_jax.data.pipeline import Data
from robust_jax.data.plan import EvalPlan, Indices, Plan, TrainPlan, select
from robust_jax.data.split import Split
from robust_jax.types import Batch

P = ParamSpec("P")

_LEADING = round(2**23 / 255) * 2.0**-23
_REMAINDER = 1 / 255 - _LEADING


def num_steps_per_epoch(data: Data, batch_size: int) -> int:
    """Returns how many full batches an epoch has (the incomplete last one is dropped).

    Args:
        data: opened data.
        batch_size: of the (global) batch.

    Example:
        >>> from robust_jax.data import Blobs, DataConfig, num_steps_per_epoch, open_data
        >>> num_steps_per_epoch(open_data(DataConfig(Blobs(num_train=100))), batch_size=32)
        3
    """
    return len(data.train) // batch_size


def train_batches(
    data: Data,
    batch_size: int,
    image_size: int | None = None,
    start_step: int = 0,
    sharding: Sharding | None = None,
    *,
    seed: int | None = None,
    first_epoch: int = 0,
) -> Iterator[Batch]:
    """Returns the endless training batches of steps start_step, start_step + 1, ...

    Each epoch is a new permutation of the training split; its incomplete last batch is dropped.
    Images are not augmented yet (but for random resized crops): the training step calls `augment`.

    Args:
        data: opened data.
        batch_size: number of examples in a (global) batch.
        image_size: another image size than the config's, for training in phases.
        start_step: first step, when training resumes.
        sharding: how the batch axis is laid over the devices; None for the default device.
        seed: seed of the order and the crops; None takes the data config's.
        first_epoch: epoch of step 0 (a later phase goes on counting).

    Guarantees:
        The batch of a step is a function of (seed, step) and the sizes: where the iteration
        started, where the images live, and the devices change nothing. `mask` is all True.

    Raises:
        ValueError: the batch is larger than the split or does not divide over the devices.

    Example:
        >>> import itertools
        >>> from robust_jax.data import Blobs, DataConfig, open_data, train_batches
        >>> data = open_data(DataConfig(Blobs(num_train=8, image_size=4)))
        >>> steps = list(itertools.islice(train_batches(data, batch_size=4), 4))  # two epochs
        >>> sorted(steps[0].index.tolist() + steps[1].index.tolist())
        [0, 1, 2, 3, 4, 5, 6, 7]
        >>> resumed = next(train_batches(data, batch_size=4, start_step=3))
        >>> bool(jnp.all(resumed.index == steps[3].index))
        True
    """
    split = data.train if image_size is None else _at_size(data, image_size)
    _check_batch_size(batch_size, sharding)
    if batch_size > len(split):
        raise ValueError(f"Expected batch_size={batch_size} <= {len(split)} training examples.")
    if start_step < 0:
        raise ValueError(f"Expected start_step={start_step} >= 0.")
    seed = data.config.seed if seed is None else seed
    plan = TrainPlan(seed, len(split), batch_size, first_epoch)
    return _batches(split, plan, start_step, None, sharding, seed)


def eval_batches(
    split: Split, batch_size: int, indices: Indices = None, sharding: Sharding | None = None
) -> Iterator[Batch]:
    """Returns the batches of an evaluation: every chosen example exactly once, in order.

    Args:
        split: what to evaluate on.
        batch_size: number of rows in a (global) batch.
        indices: which rows of the split: None for all, n for the first n, or the rows themselves.
        sharding: how the batch axis is laid over the devices; None for the default device.

    Guarantees:
        Every batch has `batch_size` rows. The last is padded: padding rows repeat row 0 of the
        split, with `mask` False and `index` 0.

    Raises:
        ValueError: the split is empty, a row is outside it or chosen twice, or the batch does not
            divide over the devices.

    Example:
        >>> from robust_jax.data import eval_batches, from_arrays
        >>> split = from_arrays(np.zeros((5, 2, 2, 1)), np.arange(5), num_classes=5)
        >>> [batch.mask.tolist() for batch in eval_batches(split, batch_size=3)]  # padded
        [[True, True, True], [True, True, False]]
        >>> [batch.index.tolist() for batch in eval_batches(split, 2, indices=[4, 0])]
        [[4, 0]]
    """
    _check_batch_size(batch_size, sharding)
    rows = select(split, indices)
    plan = EvalPlan(rows, batch_size)
    return _batches(split, plan, 0, -(-len(rows) // batch_size), sharding, split.seed)


def _at_size(data: Data, image_size: int) -> Split:
    """Returns the training split at another size, made once so that its arrays are kept."""
    kept = data.train.at_sizes
    if image_size not in kept:
        kept[image_size] = data.train.resized(image_size)
    return kept[image_size]


def _check_batch_size(batch_size: int, sharding: Sharding | None) -> None:
    if batch_size < 1:
        raise ValueError(f"Expected batch_size={batch_size} >= 1.")
    if isinstance(sharding, NamedSharding) and len(sharding.spec) > 0:
        axes = sharding.spec[0]
        names = () if axes is None else (axes,) if isinstance(axes, str) else axes
        num_shards = int(np.prod([sharding.mesh.shape[name] for name in names], dtype=int))
        if batch_size % num_shards:
            raise ValueError(
                f"Expected batch_size={batch_size} divisible by the {num_shards} devices it is "
                "split over."
            )


def _batches(
    split: Split,
    plan: Plan,
    start: int,
    stop: int | None,
    sharding: Sharding | None,
    seed: int,
) -> Iterator[Batch]:
    if split.memory == "device":
        return _gathered(split, plan, start, stop, sharding)
    return _streamed(split, plan, start, stop, sharding, seed)


def _unit_range(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns images / 255 rounded to float32, to the last bit on every backend.

    Compilers may divide by multiplying with 1 / 255 rounded, which is off by a bit for some
    levels. Here 1 / 255 is the sum of 16 leading bits, whose product with a level is exact, and
    a remainder, so that only the addition rounds (fused or not).
    """
    levels = images.astype(jnp.float32)
    return levels * _LEADING + levels * _REMAINDER


def _as_batch(
    images: Shaped[Array, "b h w k"], labels: Int[Array, " b"], rows: Int[Array, " b"]
) -> Batch:
    """Returns the batch of stored images; rows of -1 are padding."""
    return Batch(
        image=_unit_range(images) if images.dtype == jnp.uint8 else images,
        label=labels,
        mask=rows >= 0,
        index=jnp.maximum(rows, 0),
    )


def _batch_of_rows(
    images: Shaped[Array, "n h w k"], labels: Int[Array, " n"], rows: Int[Array, " b"]
) -> Batch:
    """Returns the batch of the given rows of a split in memory."""
    index = jnp.maximum(rows, 0)
    return _as_batch(images[index], labels[index], rows)


@lru_cache(maxsize=64)
def _jitted(fn: Callable[P, Batch], sharding: Sharding | None) -> Callable[P, Batch]:
    return jax.jit(fn) if sharding is None else jax.jit(fn, out_shardings=sharding)


def _gathered(
    split: Split, plan: Plan, start: int, stop: int | None, sharding: Sharding | None
) -> Iterator[Batch]:
    """Yields batches gathered on the device: only the row numbers travel."""
    everywhere = sharding
    if isinstance(sharding, NamedSharding):
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    if everywhere not in split.on_devices:
        images, labels = split.arrays
        split.on_devices[everywhere] = _put(images, everywhere), _put(labels, everywhere)
    images, labels = split.on_devices[everywhere]
    gather = _jitted(_batch_of_rows, sharding)
    step = start
    while stop is None or step < stop:
        yield gather(images, labels, _put(plan(step)[1], sharding))
        step += 1


def _put(array: np.ndarray, sharding: Sharding | None) -> Array:
    """Returns the array on the devices; every process holds the whole of it."""
    if sharding is None:
        return jnp.asarray(array)
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


@dataclass(frozen=True, eq=False)
class _StepSource:
    """Decoded host batches by step, for grain."""

    split: Split
    plan: Plan
    start: int
    num_steps: int
    local: np.ndarray
    """Positions in the global batch that this process decodes."""

    def __len__(self) -> int:
        """Returns the number of steps."""
        return self.num_steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the images, labels and rows of a step."""
        epoch, rows = self.plan(self.start + index)
        rows = rows[self.local]
        images = np.empty((len(rows), *self.split.shape), np.uint8)
        labels = np.empty(len(rows), np.int32)
        for i, row in enumerate(np.maximum(rows, 0)):
            images[i], labels[i] = self.split.read(int(row), epoch)
        return images, labels, rows


def _streamed(
    split: Split,
    plan: Plan,
    start: int,
    stop: int | None,
    sharding: Sharding | None,
    seed: int,
) -> Iterator[Batch]:
    """Yields batches that grain decodes ahead, in threads or worker processes."""
    # Imported here: data in memory needs no grain.
    import grain

    local = _local_positions(plan.batch_size, sharding)
    num_steps = 2**40 if stop is None else stop - start
    # A copy without the decoded arrays: it may travel to worker processes.
    split = replace(split, seed=seed, on_devices={}, at_sizes={})
    source = _StepSource(split, plan, start, num_steps, local)
    num_threads = min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    steps = grain.MapDataset.source(source).to_iter_dataset(options)
    if split.num_workers:
        # Grain's worker processes read absl flags, which only an absl application parses.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        workers = grain.MultiprocessingOptions(num_workers=split.num_workers)
        steps = steps.mp_prefetch(workers)
    finish = _jitted(_as_batch, sharding)
    for arrays in steps:
        yield finish(*(_put_local(array, sharding, plan.batch_size) for array in arrays))


def _local_positions(batch_size: int, sharding: Sharding | None) -> np.ndarray:
    """Returns the positions of the global batch that this process's devices hold."""
    if sharding is None:
        return np.arange(batch_size)
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    positions = np.arange(batch_size)
    return np.unique(np.concatenate([positions[part] for part in parts if part is not None]))


def _put_local(array: np.ndarray, sharding: Sharding | None, batch_size: int) -> Array:
    """Returns the global array whose part of this process is given."""
    if sharding is None:
        return jnp.asarray(array)
    shape = (batch_size, *array.shape[1:])
    return jax.make_array_from_process_local_data(sharding, array, shape)
