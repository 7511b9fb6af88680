"""PyTorch modules as functions of JAX arrays: their logits and gradients by callbacks.

The module stays PyTorch's, on its device; a pass is one call of it on the whole batch. What is
differentiated keeps PyTorch's graph until the backward pass asks for it.
"""

import collections
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array, Float, Int, Key, PyTree, UInt

if TYPE_CHECKING:
    import torch

__all__ = ["Logits", "bridge"]

KEPT = 2
"""Graphs that wait for their backward pass; of one that is gone the pass forward is made again."""


@runtime_checkable
class Logits(Protocol):
    """Returns the logits of images [b k h w], [b c]."""

    def __call__(
        self, images: Float[Array, "b k h w"], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b c"]: ...


def bridge(module: "torch.nn.Module", *, stochastic: bool = False) -> Logits:
    """Returns a PyTorch module as a function of JAX arrays, differentiable once in its images.

    Args:
        module: images [b k h w] -> logits [b c], rows independent of each other. It is put into
            evaluation mode, unless it is random, which leaves it in its own. Images are
            float32, or what all its parameters are where it refuses that (float64, 16 bits); one
            without gradients has those of a constant.
        stochastic: does it draw? Then the function takes `key=`, from which PyTorch's generators
            are seeded for the pass alone. A module that draws must say so.

    Returns:
        function of images [b k h w], float32, differentiable in reverse mode. In `jax.jit`,
        `jax.grad` and `jax.vmap` as any other; `jax.vmap` over keys is a pass for each.

    Raises:
        ValueError: at its first images: it draws, and nobody said so. An attack that is shown one
            draw again and again would say nothing of the module.

    Example:
        >>> import torch
        >>> from robust_jax.models.torch_bridge import bridge
        >>> logits = bridge(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)))
        >>> logits(jnp.zeros((5, 1, 2, 2))).shape
        (5, 3)
    """
    if not stochastic:
        module.eval()
    calls = _Calls(module, seeded=stochastic)
    count: dict[tuple[int, ...], int] = {}

    def num_classes(shape: tuple[int, ...]) -> int:
        if shape not in count:
            count[shape] = calls.num_classes(shape)
        return count[shape]

    def forward(images: Array, seed: Array) -> tuple[Array, Array]:
        shape = jax.ShapeDtypeStruct((len(images), num_classes(images.shape[1:])), jnp.float32)
        ticket = jax.ShapeDtypeStruct((), jnp.int32)
        return _called(calls.forward, (shape, ticket), images, seed)

    @jax.custom_vjp
    def logits(images: Array, seed: Array) -> Array:
        shape = jax.ShapeDtypeStruct((len(images), num_classes(images.shape[1:])), jnp.float32)
        return _called(calls.logits, shape, images, seed)

    def differentiated(images: Array, seed: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        scores, ticket = forward(images, seed)
        return scores, (images, seed, ticket)

    def backward(kept: tuple[Array, Array, Array], cotangent: Array) -> tuple[Array, None]:
        images, seed, ticket = kept
        shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
        return _called(calls.backward, shape, images, seed, ticket, cotangent), None

    logits.defvjp(differentiated, backward)

    def function(
        images: Float[Array, "b k h w"], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b c"]:
        seed = jnp.uint32(0) if key is None or not stochastic else jax.random.bits(key)
        return logits(images.astype(jnp.float32), seed)

    return function


def _called(host: Callable[..., PyTree], shapes: PyTree, *given: Array) -> PyTree:
    """Returns what a function of NumPy arrays makes of these, when the program gets there."""
    if jax.default_backend() != "cpu":
        return jax.pure_callback(host, shapes, *given, vmap_method="sequential")

    # On CPUs `pure_callback` waits for copies of large arrays, which may wait for its own thread.
    def in_place(context: object, out: PyTree, *buffers: object) -> None:
        del context
        found = host(*(np.asarray(buffer) for buffer in buffers))
        for place, values in zip(jax.tree.leaves(out), jax.tree.leaves(found), strict=True):
            np.asarray(place)[...] = values

    return buffer_callback(in_place, shapes, vmap_method="sequential")(*given)


class _Calls:
    """What the callbacks call: the module on NumPy arrays, and graphs that wait."""

    def __init__(self, module: "torch.nn.Module", *, seeded: bool) -> None:
        self._module, self._seeded = module, seeded
        self._dtype: torch.dtype | None = None
        self._tickets = itertools.count(1)
        self._graphs: collections.OrderedDict[int, tuple[torch.Tensor, torch.Tensor]] = (
            collections.OrderedDict()
        )

    def num_classes(self, shape: tuple[int, ...]) -> int:
        """Returns the number of classes for images of a shape.

        Raises:
            ValueError: two passes over the same images differ, of a module that is not to draw.
        """
        images = np.random.default_rng(0).random((2, *shape), np.float32)
        first = self._first(images)
        if not self._seeded:
            again = self.logits(images, np.ones((), np.uint32))
            limit = 1e-3 * np.nanmax(np.abs(first), initial=0)
            if not np.allclose(first, again, rtol=0, atol=limit, equal_nan=True):
                raise ValueError(
                    f"Expected {type(self._module).__name__} to give an image the same logits at "
                    f"every pass; two differ by {np.abs(first - again).max():.3g} in evaluation "
                    "mode. A module that draws is given with stochastic=True."
                )
        return first.shape[-1]

    def logits(
        self, images: Float[np.ndarray, "b k h w"], seed: UInt[np.ndarray, ""]
    ) -> Float[np.ndarray, "b c"]:
        """Returns the logits of a pass that nothing is asked of besides."""
        import torch

        with torch.no_grad():
            return _array(self._pass(self._given(images), seed))

    def forward(
        self, images: Float[np.ndarray, "b k h w"], seed: UInt[np.ndarray, ""]
    ) -> tuple[Float[np.ndarray, "b c"], Int[np.ndarray, ""]]:
        """Returns the logits, and the number by which their graph is found."""
        given, scores = self._graph(images, seed)
        ticket = next(self._tickets) % 2**31
        self._graphs[ticket] = given, scores
        while len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)
        return _array(scores), np.asarray(ticket, np.int32)

    def backward(
        self,
        images: Float[np.ndarray, "b k h w"],
        seed: UInt[np.ndarray, ""],
        ticket: Int[np.ndarray, ""],
        cotangent: Float[np.ndarray, "b c"],
    ) -> Float[np.ndarray, "b k h w"]:
        """Returns the gradient by the images of the logits times a cotangent."""
        import torch

        kept = self._graphs.pop(int(ticket), None)
        given, scores = self._graph(images, seed) if kept is None else kept
        if not scores.requires_grad:  # computed without gradients, as by a decision: it has none
            return np.zeros_like(images)
        by = self._given(cotangent).to(scores.dtype)
        (gradient,) = torch.autograd.grad(scores, given, by, materialize_grads=True)
        return _array(gradient)

    def _graph(self, images: np.ndarray, seed: np.ndarray) -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        with torch.enable_grad():
            given = self._given(images).requires_grad_()
            # A copy: a module may write into what it is given.
            return given, self._pass(given.clone(), seed)

    def _given(self, values: np.ndarray) -> "torch.Tensor":
        """Returns an array on the module's device, in the dtype that it takes."""
        import torch

        one = next(itertools.chain(self._module.parameters(), self._module.buffers()), None)
        device = None if one is None else one.device
        return torch.tensor(np.asarray(values), device=device, dtype=self._dtype)

    def _first(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits of the first pass: in float32, or the dtype of the parameters."""
        import torch

        seed = np.zeros((), np.uint32)
        try:
            return self.logits(images, seed)
        except RuntimeError:  # what PyTorch says of two dtypes that do not meet
            held = {each.dtype for each in self._module.parameters() if each.is_floating_point()}
            if self._dtype is not None or len(held) != 1 or held == {torch.float32}:
                raise
            (self._dtype,) = held
            return self.logits(images, seed)

    def _pass(self, images: "torch.Tensor", seed: np.ndarray) -> "torch.Tensor":
        import torch

        if not self._seeded:  # what it draws all the same is to be seen as such
            return self._module(images)
        with torch.random.fork_rng():
            torch.manual_seed(int(seed))
            return self._module(images)


def _array(values: "torch.Tensor") -> np.ndarray:
    return values.detach().to("cpu").float().numpy()
