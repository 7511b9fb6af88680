"""Reading a checkpoint's parts: whatever fails is one line that names it."""

import pathlib
from collections.abc import Callable
from typing import TypeVar

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from robust_jax import formats
from robust_jax.experiment.meta import Meta, from_json
from robust_jax.runtime.sharding import replicated
from robust_jax.types import Variables

T = TypeVar("T")


def root(workdir: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of a work directory's checkpoints."""
    return pathlib.Path(workdir).resolve() / "checkpoints"


def steps_of(workdir: str | pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints that are whole, rising."""
    place = root(workdir)
    if not place.is_dir():
        return []
    # Unfinished saves carry a suffix, so a name of digits is a finished one.
    return sorted(int(path.name) for path in place.iterdir() if path.name.isdigit())


def readable(read: Callable[[], T], directory: object, step: int) -> T:
    """Returns `read()`, any failure of it as one line that names the checkpoint."""
    try:
        return read()
    except Exception as error:  # orbax and tensorstore raise every kind
        raise ValueError(
            f"Expected checkpoint {str(directory)!r}, step {step}, to be whole and written by "
            f"robust_jax: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """Returns the first line of what an error says."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def reader(workdir: str | pathlib.Path) -> ocp.CheckpointManager:
    """Returns what reads a work directory's checkpoints."""
    handlers = {
        "model": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(create=False, enable_async_checkpointing=False)
    return ocp.CheckpointManager(root(workdir), options=options, item_handlers=handlers)


def read_meta(workdir: str | pathlib.Path, step: int) -> Meta:
    """Returns what a checkpoint says of itself.

    Raises:
        ValueError: it is damaged, or of a newer format.
    """

    def read() -> object:
        with reader(workdir) as manager:
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            return manager.restore(step, args=args).meta

    name = f"checkpoint {str(root(workdir))!r}, step {step},"
    meta = formats.current("checkpoint", readable(read, workdir, step), name=name)
    return readable(lambda: from_json(meta), workdir, step)


def read_model(workdir: str | pathlib.Path, step: int, mesh: Mesh) -> Variables:
    """Returns the variables of a checkpoint on the mesh.

    Raises:
        ValueError: they are damaged.
    """

    def read() -> Variables:
        with reader(workdir) as manager:
            saved, everywhere = manager.item_metadata(step).model, replicated(mesh)
            # The saved sharding names the devices that wrote it; these may be others.
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
                dict(saved),
            )
            args = ocp.args.Composite(model=ocp.args.StandardRestore(abstract))
            return manager.restore(step, args=args).model

    return readable(read, workdir, step)
