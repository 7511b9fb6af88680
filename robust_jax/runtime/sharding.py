"""The device mesh: made here and nowhere else."""

import dataclasses
from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """How a run uses the machine; nothing here changes a result.

    Attributes:
        num_devices: devices to use; None for all of them.
        distributed: start `jax.distributed` (several hosts) before anything else.
        coordinator_address: `host:port` of process 0; None where the cluster is detected
            (SLURM, TPU pods, Kubernetes).
        num_processes: number of processes, with `coordinator_address`.
        process_id: number of this process, with `coordinator_address`.
        compilation_cache: folder in which compiled programs are kept for the next start; "auto" for
            the user's own (~/.cache/robust_jax), or the one of JAX_COMPILATION_CACHE_DIR; None for
            none. Compiled programs are code: let nobody else write there.
        log_every: steps between two lines of metrics.jsonl, and between two times that several
            hosts agree whether to stop: in between no host waits for its devices.
        progress: show the progress bar.

    Example:
        >>> from robust_jax.runtime.sharding import RuntimeConfig
        >>> slurm = RuntimeConfig(distributed=True)  # the cluster says who is process 0
        >>> RuntimeConfig(log_every=0)
        Traceback (most recent call last):
            ...
        ValueError: Expected log_every=0 >= 1.
    """

    num_devices: int | None = None
    distributed: bool = False
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    compilation_cache: str | None = "auto"
    log_every: int = 50
    progress: bool = True

    def __post_init__(self) -> None:
        if self.compilation_cache == "":
            raise ValueError("Expected compilation_cache='' to be a folder, 'auto' or None.")
        if self.log_every < 1:
            raise ValueError(f"Expected log_every={self.log_every} >= 1.")


def start_processes(runtime: RuntimeConfig) -> None:
    """Starts `jax.distributed` when asked; call it before any other use of JAX."""
    if runtime.distributed:
        jax.distributed.initialize(
            coordinator_address=runtime.coordinator_address,
            num_processes=runtime.num_processes,
            process_id=runtime.process_id,
        )


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Returns a mesh of one axis, "data", over the first `num_devices` devices.

    Raises:
        ValueError: fewer devices are there than asked for.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> mesh = sharding.make_mesh(1)
        >>> mesh.axis_names, mesh.size
        (('data',), 1)
    """
    devices = jax.devices()
    num_devices = len(devices) if num_devices is None else num_devices
    if not 1 <= num_devices <= len(devices):
        raise ValueError(f"Expected num_devices={num_devices} in 1 .. {len(devices)}.")
    # Auto axes: the Explicit default breaks dropout and label gathers.
    return jax.make_mesh(
        (num_devices,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:num_devices]
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> mesh = sharding.make_mesh(1)
        >>> jax.device_put(jnp.zeros(4), sharding.replicated(mesh)).sharding.is_fully_replicated
        True
    """
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose leading axis is split over the devices.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> mesh = sharding.make_mesh(1)
        >>> jax.device_put(jnp.zeros((8, 4)), sharding.batched(mesh)).sharding.spec[0]
        'data'
    """
    return NamedSharding(mesh, PartitionSpec("data"))


def local(tree: T) -> T:
    """Returns replicated arrays as this host's own copies, on one of its devices.

    What is computed of them involves no other host: every host that computes it gets the same.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> sharding.local({"kernel": jnp.ones(2)})["kernel"].is_fully_addressable
        True
    """
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0), tree
    )


def whole(tree: T) -> T:
    """Returns arrays as this host's own copies, of parts of several hosts put together.

    Every host calls it, as its arrays may lie with the others.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> sharding.whole({"kernel": jnp.ones(2)})["kernel"].is_fully_addressable
        True
    """

    def one(leaf: jax.Array) -> jax.Array:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return local(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)


@runtime_checkable
class Device(Protocol):
    """What is asked of a `jax.Device`: whose it is, and what it knows of its memory."""

    @property
    def process_index(self) -> int: ...

    def memory_stats(self) -> dict[str, int] | None:
        """Returns the device's counts of bytes, by name; None where it does not count."""
        ...


def peak_bytes(devices: Iterable[Device]) -> int | None:
    """Returns the most memory that any device had in use since the start; None on the CPU.

    Args:
        devices: those of a mesh; other hosts' are left out.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> peak = sharding.peak_bytes(jax.devices())
        >>> peak is None or peak >= 0
        True
    """
    own = [d for d in devices if d.process_index == jax.process_index()]
    found = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in own]
    known = [peak for peak in found if peak is not None]
    return max(known) if known else None


def on_host(tree: PyTree) -> PyTree:
    """Returns the arrays on this host, whole, also where several hosts hold parts of them.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> type(sharding.on_host({"logits": jnp.zeros(3)})["logits"]).__name__
        'ndarray'
    """
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)


def spread(images: jax.Array, mesh: Mesh) -> jax.Array:
    """Returns images that every host holds whole, split over all devices.

    Args:
        images: [b ...]; b is a multiple of the number of devices.
        mesh: from `make_mesh`.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> mesh = sharding.make_mesh(1)
        >>> sharding.spread(jnp.zeros((8, 4, 4, 1)), mesh).sharding == sharding.batched(mesh)
        True
    """
    if jax.process_count() == 1:
        return jax.device_put(images, batched(mesh))
    whole = np.asarray(images)
    return jax.make_array_from_callback(whole.shape, batched(mesh), lambda part: whole[part])


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Checks that a global batch splits evenly over the mesh.

    Args:
        batch_size: of all devices together.
        mesh: from `make_mesh`.

    Raises:
        ValueError: it does not.

    Example:
        >>> from robust_jax.runtime import sharding
        >>> sharding.check_batch_size(128, sharding.make_mesh(1))
        >>> sharding.check_batch_size(0, sharding.make_mesh(1))
        Traceback (most recent call last):
            ...
        ValueError: Expected batch_size=0 to be a multiple of the 1 devices, >= 1.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"Expected batch_size={batch_size} to be a multiple of the {mesh.size} devices, >= 1."
        )
