"""Reads the state dict out of a file, whatever its repository put around it, and writes it."""

import argparse
import contextlib
import importlib
import pathlib
import re
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeGuard, runtime_checkable

import jax.numpy as jnp
import numpy as np

from robust_jax import formats

SAFETENSORS = ".safetensors"


@runtime_checkable
class Tensor(Protocol):
    """A `torch.Tensor`, as far as it is read here."""

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def ndim(self) -> int: ...

    def detach(self) -> "Tensor": ...

    def cpu(self) -> "Tensor": ...

    def float(self) -> "Tensor": ...

    def is_floating_point(self) -> bool: ...

    def element_size(self) -> int: ...

    def numpy(self) -> np.ndarray: ...


def load_state_dict(file: str | pathlib.Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """Returns the state dict of a file, as NumPy arrays by name.

    It is the file itself or one of its entries: the only one that holds tensors with names, be it
    called "state_dict", "net", "model" or "model_state_dict". Floating values of fewer than 32
    bits become float32.

    Args:
        file: what `torch.save` wrote, of which nothing is executed (`weights_only`), or what
            safetensors did, where its name ends so: no PyTorch is needed then.
        entry: the entry of a file that has several (weights and their average); None for the one.

    Raises:
        ValueError: no such file, not a file of plain arrays, no state dict or several of them in
            it, or PyTorch is missing.
    """
    if not pathlib.Path(file).is_file():
        raise ValueError(f"Expected file={str(file)!r} to exist.")
    if pathlib.Path(file).suffix == SAFETENSORS:
        if entry is not None:
            raise ValueError(f"Expected entry={entry!r} to be None: {file} holds one state dict.")
        return _load_safetensors(file)
    torch = _torch()
    try:
        with _quiet(), _harmless_classes():
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Its message advises to load without weights_only, which would execute the file.
        kind = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f", holds {kind[1]}; save model.state_dict() alone" if kind else ""
        raise ValueError(
            f"Expected file={str(file)!r} to be a PyTorch file of plain arrays and whole "
            f"({type(error).__name__}{held})."
        ) from error
    found = _chosen(_state_dicts(loaded), str(file), entry)
    return {name: as_numpy(value, f"{name} of {file}") for name, value in found.items()}


def save_state_dict(state_dict: Mapping[str, np.ndarray], file: pathlib.Path) -> None:
    """Writes a state dict: by safetensors where the file's name ends so, else by `torch.save`.

    Raises:
        ValueError: the file exists, or PyTorch is missing.
    """
    check_new(file)
    torch = None if file.suffix == SAFETENSORS else _torch()
    file.parent.mkdir(parents=True, exist_ok=True)
    with formats.replacing(file) as partial:
        if torch is None:
            import safetensors.numpy

            # What transformers and timm ask for: whose order of axes it is.
            written = safetensors.numpy.save(dict(state_dict), metadata={"format": "pt"})
            partial.write_bytes(written)  # its own way to a file lets nobody else read it
        else:
            # A copy: an array of JAX's is read-only, which PyTorch warns of.
            tensors = {name: torch.from_numpy(np.array(v)) for name, v in state_dict.items()}
            torch.save(tensors, partial)


def check_new(file: pathlib.Path) -> None:
    """Raises ValueError where a file exists, which nothing here overwrites."""
    if file.exists():
        raise ValueError(f"Expected file={str(file)!r} not to exist yet.")


def _torch() -> types.ModuleType:
    try:
        with _quiet():
            return importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(
            'Expected PyTorch to be installed: pip install "robust_jax[torch]", or take a file '
            f"NAME{SAFETENSORS}, which needs none."
        ) from error


def _load_safetensors(file: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file."""
    import safetensors

    try:
        with safetensors.safe_open(file, framework="np") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    # SafetensorError is no ValueError; a dtype that NumPy lacks is an AttributeError or a KeyError.
    except Exception as error:
        raise ValueError(
            f"Expected file={str(file)!r} to be a safetensors file of plain arrays and whole "
            f"({type(error).__name__})."
        ) from error
    narrow = {np.dtype(np.float16), np.dtype(jnp.bfloat16)}
    return {
        name: value.astype(np.float32) if value.dtype in narrow else value
        for name, value in found.items()
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps PyTorch's warnings off the screen: of formats, which say nothing about the weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _harmless_classes() -> Iterator[None]:
    """Lets a file hold what training scripts leave beside weights: options, NumPy's numbers."""
    import torch

    scalar = importlib.import_module("numpy._core.multiarray").scalar
    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)]
    named = (scalar, "numpy.core.multiarray.scalar")
    with torch.serialization.safe_globals([argparse.Namespace, scalar, named, np.dtype, *kinds]):
        yield


def _state_dicts(loaded: object) -> dict[str, Mapping[str, Tensor]]:
    """Returns the state dicts of a loaded file by entry; "" where it is one itself."""

    def is_one(value: object) -> TypeGuard[Mapping[str, Tensor]]:
        return (
            isinstance(value, Mapping)
            and all(isinstance(name, str) for name in value)
            and all(isinstance(each, Tensor) for each in value.values())
            # Not a bunch of measured numbers.
            and any(each.ndim > 1 for each in value.values())
        )

    if is_one(loaded):
        return {"": loaded}
    entries = loaded.items() if isinstance(loaded, Mapping) else ()
    return {str(name): value for name, value in entries if is_one(value)}


def _chosen(
    found: Mapping[str, Mapping[str, Tensor]], file: str, entry: str | None
) -> Mapping[str, Tensor]:
    names = ", ".join(found)
    if not found:
        raise ValueError(f"Expected file={file!r} to hold a state dict.")
    if entry is not None:
        if entry not in found:
            raise ValueError(f"Expected entry={entry!r} to be a state dict of {file}: {names}.")
        return found[entry]
    if len(found) > 1:
        raise ValueError(f"Expected entry=None to name one state dict of {file}: {names}.")
    return next(iter(found.values()))


def as_numpy(tensor: Tensor | np.ndarray, name: str) -> np.ndarray:
    """Returns the values of a tensor, parameters and bfloat16 included, or of an array."""
    if not isinstance(tensor, Tensor):
        return np.asarray(tensor)
    try:
        tensor = tensor.detach()
        if tensor.is_floating_point() and tensor.element_size() < 4:
            tensor = tensor.float()
        return tensor.cpu().numpy()
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"Expected {name} to be a plain array: {reason}.") from error
