"""Nodes made of symbols: what is linear, the rectifiers, the clips and the maxima."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn
from jax.typing import ArrayLike
from jaxtyping import Array

from robust_jax.certify.activations import Clip, Kind
from robust_jax.certify.equations import evaluated
from robust_jax.certify.graph import (
    Affine,
    Elementwise,
    Input,
    Last,
    Linear,
    Maximum,
    Node,
    Rectifier,
)
from robust_jax.certify.heads import Head
from robust_jax.certify.values import Symbol, Term, Value, is_known, is_zero, number_of

MOST = 16.0
"""max(x, o) is relu(x - o) + o for known o up to here: of larger ones that rounds x away."""


class Builder:
    """The nodes of a graph so far.

    Attributes:
        nodes: by number.
        made: of a node, the operation that made it, where that is one equation.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.nodes: list[Node] = [Input((), shape)]
        self.made: dict[int, Term] = {}
        # The nodes that are a known number times another.
        self._multiples: dict[int, tuple[int, float]] = {}

    def affine(
        self,
        linear: Linear,
        operands: Sequence[Value],
        spread: Linear | None = None,
    ) -> Symbol:
        """Returns the value of a function that is jointly linear in symbols and arrays."""
        parents = tuple(dict.fromkeys(x.node for x in operands if isinstance(x, Symbol)))
        shapes = [self.nodes[parent].shape for parent in parents]
        known = [x for x in operands if not isinstance(x, Term)]
        assert len(known) == len(operands)

        def fill(constant: Callable[[ArrayLike], ArrayLike], *values: ArrayLike) -> Array:
            given = dict(zip(parents, values, strict=True))
            return linear(*(given[x.node] if isinstance(x, Symbol) else constant(x) for x in known))

        of_symbols = functools.partial(fill, jnp.zeros_like)
        value = jax.eval_shape(of_symbols, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
        offset = None
        if not all(isinstance(x, Symbol) or is_zero(x) for x in operands):
            offset = fill(lambda x: x, *(jnp.zeros(shape, jnp.float32) for shape in shapes))
        return self._add(Affine(parents, value.shape, of_symbols, spread, offset))

    def product(self, equation: JaxprEqn, first: Value, second: Value) -> Symbol:
        """Returns the value of a symbol times an array, in the equation's sense."""
        is_first = isinstance(first, Symbol)
        x, coefficients = (first, second) if is_first else (second, first)
        assert isinstance(x, Symbol)
        assert not isinstance(coefficients, (Symbol, Term))

        def times(coefficients: ArrayLike, *values: ArrayLike) -> Array:
            pair = (*values, coefficients) if is_first else (coefficients, *values)
            return evaluated(equation, pair)[0]

        product = self.affine(
            functools.partial(times, coefficients), [x], functools.partial(times, abs(coefficients))
        )
        if (
            equation.primitive.name == "mul"
            and np.ndim(coefficients) == 0
            and is_known(coefficients)
        ):
            self._multiples[product.node] = (x.node, float(np.asarray(coefficients)))
        return product

    def gathered(self, x: Value, indices: Value, equation: JaxprEqn) -> Symbol | None:
        """Returns what lies at places of a symbol; beyond its end lies a number, not a zero."""
        if not isinstance(x, Symbol) or isinstance(indices, (Symbol, Term)):
            return None

        def taken(*values: ArrayLike) -> Array:
            return evaluated(equation, [*values, indices])[0]

        def taken_inside(*values: ArrayLike) -> Array:
            return jnp.where(beyond == 0, taken(values[0]), 0) + values[1]

        beyond = taken(jnp.zeros(self.nodes[x.node].shape, jnp.float32))
        return (
            self.affine(taken, [x]) if is_zero(beyond) else self.affine(taken_inside, [x, beyond])
        )

    def sum(self, x: Value, y: Value) -> Symbol:
        """Returns the value of a sum of which one summand is a symbol."""
        return self.affine(lambda *x: jnp.add(*x), [x, y])

    def negative(self, x: Value) -> Symbol | ArrayLike:
        """Returns the value times -1."""
        assert not isinstance(x, (Term, np.bool_))
        if not isinstance(x, Symbol):
            return -x
        found = self.affine(lambda *x: jnp.negative(*x), [x], _first)
        self._multiples[found.node] = (x.node, -1.0)
        return found

    def elementwise(self, kind: Kind, x: Symbol) -> Symbol:
        """Returns the value of a bent function of each element."""
        return self._add(Elementwise((x.node,), self.nodes[x.node].shape, kind))

    def last(self, head: Head, x: Symbol) -> Symbol:
        """Returns the value of a softmax, which nothing acts on."""
        return self._add(Last((x.node,), self.nodes[x.node].shape, head))

    def rectifier(self, x: Value, multiple: Value) -> Symbol | None:
        """Returns max(x, multiple) where the second is zero or x times a slope, else None."""
        if not isinstance(x, Symbol):
            return None
        shape = self.nodes[x.node].shape
        slope = 0.0 if is_zero(multiple) and _is_within(multiple, shape) else None
        if isinstance(multiple, Symbol):
            parent, factor = self._multiples.get(multiple.node, (None, None))
            slope = factor if parent == x.node else None
        if slope is None or not slope <= 1 or slope == -math.inf:
            return None
        return self._add(Rectifier((x.node,), shape, slope))

    def larger(self, x: Value, y: Value) -> Symbol:
        """Returns max(x, y) of which one is a symbol."""
        for value, other in ((x, y), (y, x)):
            if isinstance(value, Symbol) and self._is_all(other, -math.inf, value):
                return value
            found = self._clipped("min", value, other) or self.rectifier(value, other)
            if found is not None:
                return found
        for value, other in ((x, y), (y, x)):
            if is_known(other) and np.max(np.abs(other), initial=0) <= MOST:
                above = self.rectifier(self.sum(value, self.negative(other)), np.float32(0))
                assert above is not None
                return self.sum(above, other)

        def stack(*values: ArrayLike) -> Array:
            return jnp.stack(jnp.broadcast_arrays(*values))

        return self._largest(self.affine(stack, [x, y]))

    def smaller(self, x: Value, y: Value) -> Symbol:
        """Returns min(x, y) of which one is a symbol."""
        for value, other in ((x, y), (y, x)):
            if isinstance(value, Symbol) and self._is_all(other, math.inf, value):
                return value
            found = self._clipped("max", value, other)
            if found is not None:
                return found
        return self._opposite(self.larger(self.negative(x), self.negative(y)))

    def clamped(self, low: Value, x: Value, high: Value) -> Symbol | None:
        """Returns x, low where it is below and high where it is above that; None if x is known."""
        if not isinstance(x, Symbol):
            return None
        return self._clip(low, x, high) or self.smaller(self.larger(low, x), high)

    def _clipped(self, first: str, value: Value, other: Value) -> Symbol | None:
        """Returns max(min(x, high), low), or min(max(x, low), high), as one clip where it is one.

        Args:
            first: the operation that was inside: "max" or "min".
            value: perhaps its value.
            other: a number, of the operation outside.
        """
        term = self.made.get(value.node) if isinstance(value, Symbol) else None
        if term is None or term.operation != first:
            return None
        for x, inner in (term.operands, term.operands[::-1]):
            low, high = (inner, other) if first == "max" else (other, inner)
            found = self._clip(low, x, high) if isinstance(x, Symbol) else None
            if found is not None:
                return found
        return None

    def _clip(self, low: Value, x: Symbol, high: Value) -> Symbol | None:
        first, last, shape = number_of(low), number_of(high), self.nodes[x.node].shape
        if first is None or last is None or not -math.inf < first < last < math.inf:
            return None
        if not (_is_within(low, shape) and _is_within(high, shape)):
            return None
        return self.elementwise(Clip(first, last), x)

    def _is_all(self, x: Value, number: float, of: Symbol) -> bool:
        return number_of(x) == number and _is_within(x, self.nodes[of.node].shape)

    def _opposite(self, x: Symbol) -> Symbol:
        found = self.negative(x)
        assert isinstance(found, Symbol)
        return found

    def reduce_max(self, x: Value, axes: tuple[int, ...]) -> Symbol | None:
        """Returns the maximum over axes of a symbol, None of what is none."""
        if not isinstance(x, Symbol):
            return None
        kept = [n for axis, n in enumerate(self.nodes[x.node].shape) if axis not in axes]

        def flatten(x: ArrayLike) -> Array:
            return jnp.moveaxis(x, axes, range(len(axes))).reshape((-1, *kept))

        return self._largest(self.affine(lambda *x: flatten(*x), [x]))

    def reduce_min(self, x: Value, axes: tuple[int, ...]) -> Symbol | None:
        """Returns the minimum over axes of a symbol, None of what is none."""
        if not isinstance(x, Symbol):
            return None
        found = self.reduce_max(self._opposite(x), axes)
        assert found is not None
        return self._opposite(found)

    def max_pool(self, x: Value, equation: JaxprEqn) -> Symbol | None:
        """Returns the maximum over windows: of one strided slice for each place in the window."""
        params = equation.params
        window, dilation = params["window_dimensions"], params["window_dilation"]
        strides = params["window_strides"]
        if set(params["base_dilation"]) != {1} or not isinstance(x, Symbol):
            return None
        pads = [(low, high, 0) for low, high in params["padding"]]
        padded = self.affine(lambda *x: lax.pad(*x, padding_config=pads), [x, np.float32(-np.inf)])

        def slices(x: ArrayLike) -> Array:
            spans = [(w - 1) * d for w, d in zip(window, dilation, strict=True)]
            found = []
            for place in itertools.product(*map(range, window)):
                low = [i * d for i, d in zip(place, dilation, strict=True)]
                high = [n - s + i for n, s, i in zip(np.shape(x), spans, low, strict=True)]
                found.append(lax.slice(x, low, high, strides))
            return jnp.stack(found)

        return self._largest(self.affine(lambda *x: slices(*x), [padded]))

    def pool(self, x: Value, equation: JaxprEqn) -> Symbol | None:
        """Returns the maximum over windows, or the minimum."""
        if equation.primitive.name == "reduce_window_max" or not isinstance(x, Symbol):
            return self.max_pool(x, equation)
        found = self.max_pool(self._opposite(x), equation)
        return None if found is None else self._opposite(found)

    def _largest(self, x: Symbol) -> Symbol:
        return self._add(Maximum((x.node,), self.nodes[x.node].shape[1:]))

    def _add(self, node: Node) -> Symbol:
        self.nodes.append(node)
        return Symbol(len(self.nodes) - 1)


def _first(*values: ArrayLike) -> Array:
    return jnp.asarray(values[0])


def _is_within(x: Value, shape: tuple[int, ...]) -> bool:
    """Returns whether an array known has this shape when it is broadcast with it."""
    return is_known(x) and np.broadcast_shapes(np.shape(x), shape) == shape
