"""Modules of flax, Equinox and PyTorch as functions of a batch of images and their arrays."""

import functools
import sys
import types
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array, Key

from robust_jax import rng
from robust_jax.types import Variables

Given = Callable[..., Array]
"""A function of images, or a module that is called as one."""

Layout = Literal["NHWC", "NCHW"]
"""Order of the axes of a batch: images, rows, columns and channels."""


class Function(NamedTuple):
    """A module, or what else can be called, as a function.

    Attributes:
        call: (variables, images, key or None) -> its answer.
        variables: its arrays.
        arrays_of: the name that these have where several functions share them; None where they are
            its own.
        layout: of the images, as it takes them where nothing else is said.
    """

    call: Callable[[Variables, Array, Key[Array, ""] | None], Array]
    variables: Variables
    arrays_of: str | None = None
    layout: Layout = "NHWC"


@runtime_checkable
class _Maker(Protocol):
    def __call__(self, module: Given, /, *, stochastic: bool) -> Function: ...


def as_function(given: Given, variables: Variables | None, *, stochastic: bool) -> Function:
    """Returns what is given as a function.

    Modules of nnx, Equinox and PyTorch are taken in evaluation mode (no dropout, kept statistics),
    random ones in the mode they are in.

    Args:
        given: a function of images, or of variables and images; a module of flax nnx, of linen
            beside its variables, of Equinox (of one image, as Equinox has it) or of PyTorch.
        variables: of a function or a linen module; None where it has its arrays itself.
        stochastic: does it draw? Functions and Equinox modules take `key=` then.

    Raises:
        ValueError: variables beside a module that has its own, a linen module without, or a
            random linen module; at its first images, a module of nnx or PyTorch that draws, and
            is not said to.
    """
    makers: dict[type, _Maker] = {nnx.Module: _nnx}
    for library, make in (("equinox", _equinox), ("torch.nn", _torch)):
        if library in sys.modules:  # nobody has a module of a library that was not imported
            makers[sys.modules[library].Module] = make
    kind = type(given).__name__
    for cls, make in makers.items():
        if isinstance(given, cls):
            if variables is not None:
                raise ValueError(f"Expected variables of {kind} to be None: it has its own.")
            return make(given, stochastic=stochastic)
    if isinstance(given, linen.Module):
        if variables is None or stochastic:
            wrong = "no variables" if variables is None else "stochastic=True"
            raise ValueError(
                f"Expected {kind}, a linen module with {wrong}, to be a function of variables and "
                "images (and key): functools.partial of its apply, say."
            )
        return _linen(given, variables)
    if variables is None:
        return Function(_without_variables(_called(given, stochastic)), {})
    return Function(_called(given, stochastic), variables, "given")


def named(given: object) -> str:
    """Returns what a module is called where nothing else is said; of a function, that it is one."""
    is_function = isinstance(given, types.FunctionType | types.MethodType | functools.partial)
    return "function" if is_function or not callable(given) else type(given).__name__


def _called(function: Given, stochastic: bool) -> Given:
    """Returns a function that is called with its arrays, where it has some, and a key or None."""
    if stochastic:
        return lambda *given: function(*given[:-1], key=given[-1])
    return lambda *given: function(*given[:-1])


def _without_variables(function: Given) -> Given:
    return lambda variables, images, key: function(images, key)


def _linen(module: linen.Module, variables: Variables) -> Function:
    def call(variables: Variables, images: Array, key: Key[Array, ""] | None) -> Array:
        del key
        scores = module.apply(variables, images)
        assert isinstance(scores, jax.Array), "a linen module that gives one array"
        return scores

    return Function(call, variables, "given")


def _nnx(module: Given, *, stochastic: bool) -> Function:
    assert isinstance(module, nnx.Module)
    graph, state = nnx.split(module)
    if not stochastic:  # of a copy: whose module it is may train it on
        copy = nnx.merge(graph, state)
        copy.eval()
        graph, state = nnx.split(copy)
    leaves, structure = jax.tree.flatten(state)
    sound: set[tuple[int, ...]] = set()  # shapes for which it is known to draw nothing

    def call(variables: Variables, images: Array, key: Key[Array, ""] | None) -> Array:
        one = nnx.merge(graph, jax.tree.unflatten(structure, variables["leaves"]))
        if stochastic and key is not None:
            _reseed(one, key)
        elif not stochastic and images.shape not in sound:
            if _draws(graph, jax.tree.unflatten(structure, leaves), images.shape):
                raise ValueError(
                    f"Expected {type(module).__name__} to draw nothing in evaluation mode. A "
                    "module that draws is given with stochastic=True: one draw, seen again and "
                    "again, is another module."
                )
            sound.add(images.shape)
        return one(images)

    return Function(call, {"leaves": leaves})


def _reseed(module: nnx.Module, key: Key[Array, ""]) -> None:
    """Seeds every stream of a module's random numbers anew, whatever it is called."""
    nodes = (node for _, node in nnx.iter_graph(module))
    names = sorted({str(node.key.tag) for node in nodes if isinstance(node, nnx.RngStream)})
    keys = {name: rng.stream(key, name) for name in names}
    nnx.reseed(module, policy="match_shape", **keys)  # pyright: ignore[reportArgumentType]


def _draws(graph: nnx.GraphDef, state: nnx.State, shape: tuple[int, ...]) -> bool:
    """Returns whether a module draws from one of its streams in a pass over such images."""

    def drawn(state: nnx.State, images: Array) -> list[Array]:
        one = nnx.merge(graph, state)
        before = _counts(one)
        one(images)
        after = _counts(one)
        return [jnp.any(after[name] != count) for name, count in before.items()]

    # Of the pass nothing is left in this program but what counts.
    with jax.ensure_compile_time_eval():
        return any(map(bool, jax.jit(drawn)(state, jnp.zeros(shape))))


def _counts(module: nnx.Module) -> dict[str, Array]:
    """Returns how often each stream of a module's random numbers was drawn from, by its place."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.state(module, nnx.RngCount))
    return {jax.tree_util.keystr(path): count for path, count in leaves}


def _equinox(module: Given, *, stochastic: bool) -> Function:
    import equinox

    if not stochastic:
        module = equinox.nn.inference_mode(module)
    arrays, rest = equinox.partition(module, equinox.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def call(variables: Variables, images: Array, key: Key[Array, ""] | None) -> Array:
        one = equinox.combine(jax.tree.unflatten(structure, variables["leaves"]), rest)
        if not stochastic:
            return jax.vmap(one)(images)
        assert key is not None
        return jax.vmap(lambda image, own: one(image, key=own))(
            images, jax.random.split(key, len(images))
        )

    return Function(call, {"leaves": leaves}, layout="NCHW")


def _torch(module: Given, *, stochastic: bool) -> Function:
    import torch

    from robust_jax.models.torch_bridge import bridge

    assert isinstance(module, torch.nn.Module)
    function = _called(bridge(module, stochastic=stochastic), stochastic)
    return Function(_without_variables(function), {}, layout="NCHW")
