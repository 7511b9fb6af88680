"""From a function to its graph: its jaxpr is evaluated on symbols of what depends on the images.

No rule of propagation is written here. A linear operation stays the primitive that it is: JAX
transposes it, and the same primitive with absolute coefficients bounds its spread.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.typing import ArrayLike
from jaxtyping import Array

from robust_jax.certify.equations import evaluated
from robust_jax.certify.graph import (
    Affine,
    Input,
    Linear,
    Maximum,
    Node,
    Rectifier,
    contract,
    prune,
)
from robust_jax.certify.values import Sign, Symbol, Value, are_arrays, is_known, is_zero

# Linear in these operands with no negative coefficient; the others must not depend on the images.
_MONOTONE = {
    **dict.fromkeys(("add", "add_any", "concatenate", "pad", "stack"), slice(None)),
    **dict.fromkeys(("broadcast_in_dim", "expand_dims", "reshape", "squeeze"), slice(1)),
    **dict.fromkeys(("copy", "rev", "sharding_constraint", "transpose"), slice(1)),
    **dict.fromkeys(("dynamic_slice", "gather", "slice", "split"), slice(1)),
    **dict.fromkeys(("cumsum", "reduce_sum", "reduce_window_sum"), slice(1)),
    "select_n": slice(1, None),
}
# Linear in one operand, with the other as coefficients.
_PRODUCTS = ("mul", "div", "dot_general", "conv_general_dilated")
_CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def trace(function: Callable[[Array], Array], shape: tuple[int, ...]) -> dict[int, Node]:
    """Returns the graph of a function of float32 images.

    Loops are unrolled, calls are entered (with custom derivatives too: what they declare is not
    trusted), and whatever does not depend on the images is evaluated.

    Args:
        function: from images to one array.
        shape: of the images.

    Raises:
        ValueError: an operation on the images is none that bounds are known of, or the value
            does not depend on them.
    """
    # A function of its own: JAX keeps what it traced by identity.
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    with jax.default_matmul_precision("highest"):
        closed = jax.make_jaxpr(lambda images: function(images))(images)
    tracer = _Tracer(shape)
    outputs = tracer.run(closed, [Symbol(0)])
    if len(outputs) != 1 or not isinstance(outputs[0], Symbol):
        raise ValueError("Expected the function to give one array that depends on the images.")
    return contract(prune(tracer.nodes, outputs[0].node))


def evaluate(closed: ClosedJaxpr, captured: Sequence[Array], *arguments: Array) -> list[Array]:
    """Returns the outputs of a jaxpr of arrays, with convolutions as XLA:CPU is quick at them."""
    outputs = _Tracer(()).run(closed, arguments, captured)
    assert are_arrays(outputs)
    return list(map(jnp.asarray, outputs))


class _Tracer:
    """Evaluates a jaxpr on arrays and symbols; what acts on symbols becomes nodes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.nodes: list[Node] = [Input((), shape)]
        # The nodes that are a known number times another.
        self.multiples: dict[int, tuple[int, float]] = {}

    def run(
        self,
        closed: ClosedJaxpr,
        arguments: Sequence[Value],
        captured: Sequence[ArrayLike] | None = None,
    ) -> list[Value]:
        """Returns the outputs of a jaxpr, with its own arrays or those given for them."""
        jaxpr = closed.jaxpr
        consts = closed.consts if captured is None else captured
        values: dict[Var, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(variable: Var | Literal) -> Value:
            return variable.val if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            outputs = self._apply(equation, [read(variable) for variable in equation.invars])
            values |= dict(zip(equation.outvars, outputs, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _apply(self, equation: JaxprEqn, operands: list[Value]) -> list[Value]:
        """Returns the outputs of one equation."""
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            return self.run(params[_CALLS[name]], operands)
        if are_arrays(operands):
            return [*evaluated(equation, operands)]
        outputs: Sequence[Value | None]
        match name:
            case "scan":
                outputs = self._scan(equation, operands)
            case "ge" | "gt":
                outputs = [self._sign(*operands)]
            case "select_n" if isinstance(operands[0], Sign):
                outputs = [self._choice(operands[0], *operands[1:])]
            case "max":
                outputs = [self._larger(*operands)]
            case "reduce_max":
                outputs = [self._reduce_max(operands[0], params["axes"])]
            case "reduce_window_max":
                outputs = [self._max_pool(operands[0], equation)]
            case _:
                outputs = self._linear(equation, operands)
        known = [x for x in outputs if x is not None]
        if len(known) < len(outputs):
            raise ValueError(
                f"Expected the operation {name!r} on values that depend on the images to be "
                "linear in them, a ReLU, a leaky ReLU or a maximum."
            )
        return known

    def _linear(self, equation: JaxprEqn, operands: list[Value]) -> Sequence[Value | None]:
        """Returns the outputs of a linear equation, [None] of another."""
        name = equation.primitive.name
        inside = [isinstance(x, Symbol) for x in operands]
        if any(isinstance(x, Sign) for x in operands):
            return [None]
        if name == "optimization_barrier":
            return operands
        if name == "convert_element_type" and _type(equation.outvars[0]).dtype == jnp.float32:
            return operands
        if name == "neg":
            return [self._negative(operands[0])]
        if name == "sub":
            return [
                self._affine(lambda *x: jnp.add(*x), [operands[0], self._negative(operands[1])])
            ]
        if name in _PRODUCTS and sum(inside) == 1 and (name != "div" or inside[0]):
            first, second = operands
            return [self._product(equation, first, second)]
        places = range(len(operands))[_MONOTONE.get(name, slice(0))]
        if not set(itertools.compress(range(len(operands)), inside)) <= set(places):
            return [None]

        def output(number: int, *values: ArrayLike) -> Array:
            filled = operands.copy()
            for place, value in zip(places, values, strict=True):
                filled[place] = value
            assert are_arrays(filled)
            return evaluated(equation, filled)[number]

        return [
            self._affine(functools.partial(output, number), [operands[place] for place in places])
            for number in range(len(equation.outvars))
        ]

    def _product(self, equation: JaxprEqn, first: Value, second: Value) -> Symbol:
        """Returns the value of a symbol times an array, in the equation's sense."""
        is_first = isinstance(first, Symbol)
        x, coefficients = (first, second) if is_first else (second, first)
        assert isinstance(x, Symbol)
        assert not isinstance(coefficients, (Symbol, Sign))

        def times(coefficients: ArrayLike, *values: ArrayLike) -> Array:
            pair = (*values, coefficients) if is_first else (coefficients, *values)
            return evaluated(equation, pair)[0]

        product = self._affine(
            functools.partial(times, coefficients), [x], functools.partial(times, abs(coefficients))
        )
        if (
            equation.primitive.name == "mul"
            and np.ndim(coefficients) == 0
            and is_known(coefficients)
        ):
            self.multiples[product.node] = (x.node, float(np.asarray(coefficients)))
        return product

    def _affine(
        self,
        linear: Linear,
        operands: Sequence[Value],
        spread: Linear | None = None,
    ) -> Symbol:
        """Returns the value of a function that is jointly linear in symbols and arrays."""
        parents = tuple(dict.fromkeys(x.node for x in operands if isinstance(x, Symbol)))
        shapes = [self.nodes[parent].shape for parent in parents]
        known = [x for x in operands if not isinstance(x, Sign)]
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

    def _add(self, node: Node) -> Symbol:
        self.nodes.append(node)
        return Symbol(len(self.nodes) - 1)

    def _negative(self, x: Value) -> Symbol | ArrayLike:
        assert not isinstance(x, (Sign, np.bool_))
        if not isinstance(x, Symbol):
            return -x
        return self._affine(lambda *x: jnp.negative(*x), [x], _first)

    def _sign(self, x: Value, threshold: Value) -> Sign | None:
        return Sign(x.node) if isinstance(x, Symbol) and is_zero(threshold) else None

    def _choice(self, sign: Sign, negative: Value, positive: Value) -> Symbol | None:
        same = isinstance(positive, Symbol) and positive.node == sign.node
        return self._rectifier(positive, negative) if same else None

    def _rectifier(self, x: Value, multiple: Value) -> Symbol | None:
        """Returns max(x, multiple) where the second is zero or x times a slope, else None."""
        if not isinstance(x, Symbol):
            return None
        slope = 0.0 if is_zero(multiple) else None
        if isinstance(multiple, Symbol):
            parent, factor = self.multiples.get(multiple.node, (None, None))
            slope = factor if parent == x.node else None
        if slope is None or not 0 <= slope <= 1:
            return None
        return self._add(Rectifier((x.node,), self.nodes[x.node].shape, slope))

    def _larger(self, x: Value, y: Value) -> Symbol:
        def stack(*values: ArrayLike) -> Array:
            return jnp.stack(jnp.broadcast_arrays(*values))

        rectifier = self._rectifier(x, y) or self._rectifier(y, x)
        return rectifier or self._largest(self._affine(stack, [x, y]))

    def _largest(self, x: Symbol) -> Symbol:
        return self._add(Maximum((x.node,), self.nodes[x.node].shape[1:]))

    def _reduce_max(self, x: Value, axes: tuple[int, ...]) -> Symbol | None:
        if not isinstance(x, Symbol):
            return None
        kept = [n for axis, n in enumerate(self.nodes[x.node].shape) if axis not in axes]

        def flatten(x: ArrayLike) -> Array:
            return jnp.moveaxis(x, axes, range(len(axes))).reshape((-1, *kept))

        return self._largest(self._affine(lambda *x: flatten(*x), [x]))

    def _max_pool(self, x: Value, equation: JaxprEqn) -> Symbol | None:
        """Returns the maximum over windows: of one strided slice for each place in the window."""
        params = equation.params
        window, dilation = params["window_dimensions"], params["window_dilation"]
        strides = params["window_strides"]
        if set(params["base_dilation"]) != {1} or not isinstance(x, Symbol):
            return None
        pads = [(low, high, 0) for low, high in params["padding"]]
        padded = self._affine(lambda *x: lax.pad(*x, padding_config=pads), [x, np.float32(-np.inf)])

        def slices(x: ArrayLike) -> Array:
            spans = [(w - 1) * d for w, d in zip(window, dilation, strict=True)]
            found = []
            for place in itertools.product(*map(range, window)):
                low = [i * d for i, d in zip(place, dilation, strict=True)]
                high = [n - s + i for n, s, i in zip(np.shape(x), spans, low, strict=True)]
                found.append(lax.slice(x, low, high, strides))
            return jnp.stack(found)

        return self._largest(self._affine(lambda *x: slices(*x), [padded]))

    def _scan(self, equation: JaxprEqn, operands: list[Value]) -> Sequence[Value | None]:
        """Returns the outputs of a loop, unrolled; None for those that bounds are not known of."""
        params, body = equation.params, equation.params["jaxpr"].jaxpr
        # Its parameters name constants, carry and sequences in each version of JAX in another
        # way; sequences are those that have an axis more outside than inside.
        num_sequences, num_stacked = (
            sum(_type(x).ndim > _type(y).ndim for x, y in zip(outside, inside, strict=True))
            for outside, inside in (
                (equation.invars, body.invars),
                (equation.outvars, body.outvars),
            )
        )
        num_carry = len(body.outvars) - num_stacked
        num_constants = len(operands) - num_carry - num_sequences
        constants, operands = operands[:num_constants], operands[num_constants:]
        carry, sequences = operands[:num_carry], operands[num_carry:]
        direction = -1 if params["reverse"] else 1
        rows: list[list[Value]] = []
        for step in range(params["length"])[::direction]:
            row = functools.partial(_row, step)
            # Of arrays what is known stays so.
            found = [
                x[step] if isinstance(x, (jax.Array, np.ndarray)) else self._map(row, [x])
                for x in sequences
            ]
            elements = [x for x in found if x is not None]
            if len(elements) < len(found):
                return [None]
            outputs = self.run(params["jaxpr"], [*constants, *carry, *elements])
            carry = outputs[:num_carry]
            rows.append(outputs[num_carry:])
        columns = zip(*rows[::direction], strict=True)
        return [*carry, *(self._map(lambda *row: jnp.stack(row), column) for column in columns)]

    def _map(self, linear: Linear, operands: Sequence[Value]) -> Symbol | Array | None:
        """Returns the value of a linear function of symbols, of arrays, or of both."""
        if any(isinstance(x, Sign) for x in operands):
            return None
        return linear(*operands) if are_arrays(operands) else self._affine(linear, operands)


def _first(*values: ArrayLike) -> Array:
    return jnp.asarray(values[0])


def _row(number: int, *values: ArrayLike) -> Array:
    return jnp.asarray(values[0])[number]


def _type(atom: Var | Literal) -> ShapedArray:
    assert isinstance(atom.aval, ShapedArray)
    return atom.aval
