"""From a function to its graph: its jaxpr is evaluated on symbols of what depends on the images.

No rule of propagation is written here. A linear operation stays the primitive that it is: JAX
transposes it, and the same primitive with absolute coefficients bounds its spread.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array

from robust_jax.certify.graph import Affine, Input, Maximum, Node, Rectifier, contract, prune


@dataclasses.dataclass(frozen=True)
class _Symbol:
    """The value of a node."""

    node: int


@dataclasses.dataclass(frozen=True)
class _Sign:
    """Where the value of a node is >= 0, or > 0: at 0 both sides of a rectifier agree."""

    node: int


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
    outputs = tracer.run(closed, [_Symbol(0)])
    if len(outputs) != 1 or not isinstance(outputs[0], _Symbol):
        raise ValueError("Expected the function to give one array that depends on the images.")
    return contract(prune(tracer.nodes, outputs[0].node))


def evaluate(closed: ClosedJaxpr, captured: Sequence[Array], *arguments: Array) -> list[Array]:
    """Returns the outputs of a jaxpr of arrays, with convolutions as XLA:CPU is quick at them."""
    return _Tracer(()).run(closed, arguments, captured)


class _Tracer:
    """Evaluates a jaxpr on arrays and symbols; what acts on symbols becomes nodes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.nodes: list[Node] = [Input((), shape)]
        # The nodes that are a known number times another.
        self.multiples: dict[int, tuple[int, float]] = {}

    def run(
        self, closed: ClosedJaxpr, arguments: Sequence[Any], captured: Sequence[Any] | None = None
    ) -> list[Any]:
        """Returns the outputs of a jaxpr, with its own arrays or those given for them."""
        jaxpr = closed.jaxpr
        consts: Sequence[Any] = closed.consts if captured is None else captured
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(variable):
            return variable.val if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            outputs = self._apply(equation, [read(variable) for variable in equation.invars])
            values |= dict(zip(equation.outvars, outputs, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _apply(self, equation: Any, operands: list[Any]) -> list[Any]:
        """Returns the outputs of one equation."""
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            return self.run(params[_CALLS[name]], operands)
        if not any(isinstance(x, (_Symbol, _Sign)) for x in operands):
            return _evaluate(equation, operands)
        match name:
            case "scan":
                outputs = self._scan(equation, operands)
            case "ge" | "gt":
                outputs = [self._sign(*operands)]
            case "select_n" if isinstance(operands[0], _Sign):
                outputs = [self._choice(*operands)]
            case "max":
                outputs = [self._larger(*operands)]
            case "reduce_max":
                outputs = [self._reduce_max(operands[0], params["axes"])]
            case "reduce_window_max":
                outputs = [self._max_pool(operands[0], params)]
            case _:
                outputs = self._linear(equation, operands)
        if None in outputs:
            raise ValueError(
                f"Expected the operation {name!r} on values that depend on the images to be "
                "linear in them, a ReLU, a leaky ReLU or a maximum."
            )
        return outputs

    def _linear(self, equation: Any, operands: list[Any]) -> list[Any]:
        """Returns the outputs of a linear equation, [None] of another."""
        name = equation.primitive.name
        inside = [isinstance(x, _Symbol) for x in operands]
        if any(isinstance(x, _Sign) for x in operands):
            return [None]
        if name == "optimization_barrier":
            return operands
        if name == "convert_element_type" and equation.outvars[0].aval.dtype == jnp.float32:
            return operands
        if name == "neg":
            return [self._negative(operands[0])]
        if name == "sub":
            return [self._affine(jnp.add, [operands[0], self._negative(operands[1])])]
        if name in _PRODUCTS and sum(inside) == 1 and (name != "div" or inside[0]):
            return [self._product(equation, operands)]
        places = range(len(operands))[_MONOTONE.get(name, slice(0))]
        if not set(itertools.compress(range(len(operands)), inside)) <= set(places):
            return [None]

        def output(number, *values):
            filled = operands.copy()
            for place, value in zip(places, values, strict=True):
                filled[place] = value
            return _evaluate(equation, filled)[number]

        return [
            self._affine(functools.partial(output, number), [operands[place] for place in places])
            for number in range(len(equation.outvars))
        ]

    def _product(self, equation: Any, operands: list[Any]) -> _Symbol:
        """Returns the value of a symbol times an array, in the equation's sense."""
        is_first = isinstance(operands[0], _Symbol)
        x, coefficients = operands if is_first else operands[::-1]

        def times(coefficients, x):
            return _evaluate(equation, [x, coefficients] if is_first else [coefficients, x])[0]

        product = self._affine(
            functools.partial(times, coefficients), [x], functools.partial(times, abs(coefficients))
        )
        if equation.primitive.name == "mul" and np.ndim(coefficients) == 0 and _known(coefficients):
            self.multiples[product.node] = (x.node, float(coefficients))
        return product

    def _affine(
        self,
        linear: Callable[..., Array],
        operands: Sequence[Any],
        spread: Callable[..., Array] | None = None,
    ) -> _Symbol:
        """Returns the value of a function that is jointly linear in symbols and arrays."""
        parents = tuple(dict.fromkeys(x.node for x in operands if isinstance(x, _Symbol)))
        shapes = [self.nodes[parent].shape for parent in parents]

        def fill(constant, *values):
            given = dict(zip(parents, values, strict=True))
            return linear(
                *(given[x.node] if isinstance(x, _Symbol) else constant(x) for x in operands)
            )

        of_symbols = functools.partial(fill, jnp.zeros_like)
        value = jax.eval_shape(of_symbols, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
        offset = None
        if not all(isinstance(x, _Symbol) or _is_zero(x) for x in operands):
            offset = fill(lambda x: x, *(jnp.zeros(shape, jnp.float32) for shape in shapes))
        return self._add(Affine(parents, value.shape, of_symbols, spread, offset))

    def _add(self, node: Node) -> _Symbol:
        self.nodes.append(node)
        return _Symbol(len(self.nodes) - 1)

    def _negative(self, x: Any) -> Any:
        if not isinstance(x, _Symbol):
            return -x
        return self._affine(jnp.negative, [x], lambda spread: spread)

    def _sign(self, x: Any, threshold: Any) -> _Sign | None:
        return _Sign(x.node) if isinstance(x, _Symbol) and _is_zero(threshold) else None

    def _choice(self, sign: _Sign, negative: Any, positive: Any) -> _Symbol | None:
        return self._rectifier(positive, negative) if positive == _Symbol(sign.node) else None

    def _rectifier(self, x: Any, multiple: Any) -> _Symbol | None:
        """Returns max(x, multiple) where the second is zero or x times a slope, else None."""
        if not isinstance(x, _Symbol):
            return None
        slope = 0.0 if _is_zero(multiple) else None
        if isinstance(multiple, _Symbol):
            parent, factor = self.multiples.get(multiple.node, (None, None))
            slope = factor if parent == x.node else None
        if slope is None or not 0 <= slope <= 1:
            return None
        return self._add(Rectifier((x.node,), self.nodes[x.node].shape, slope))

    def _larger(self, x: Any, y: Any) -> _Symbol:
        def stack(*values):
            return jnp.stack(jnp.broadcast_arrays(*values))

        rectifier = self._rectifier(x, y) or self._rectifier(y, x)
        return rectifier or self._largest(self._affine(stack, [x, y]))

    def _largest(self, x: _Symbol) -> _Symbol:
        return self._add(Maximum((x.node,), self.nodes[x.node].shape[1:]))

    def _reduce_max(self, x: _Symbol, axes: tuple[int, ...]) -> _Symbol:
        kept = [n for axis, n in enumerate(self.nodes[x.node].shape) if axis not in axes]

        def flatten(x):
            return jnp.moveaxis(x, axes, range(len(axes))).reshape((-1, *kept))

        return self._largest(self._affine(flatten, [x]))

    def _max_pool(self, x: _Symbol, params: dict[str, Any]) -> _Symbol | None:
        """Returns the maximum over windows: of one strided slice for each place in the window."""
        window, dilation = params["window_dimensions"], params["window_dilation"]
        strides = params["window_strides"]
        if set(params["base_dilation"]) != {1}:
            return None
        pads = [(low, high, 0) for low, high in params["padding"]]
        padded = self._affine(
            lambda x, outside: lax.pad(x, outside, pads), [x, np.float32(-np.inf)]
        )

        def slices(x):
            spans = [(w - 1) * d for w, d in zip(window, dilation, strict=True)]
            found = []
            for place in itertools.product(*map(range, window)):
                low = [i * d for i, d in zip(place, dilation, strict=True)]
                high = [n - s + i for n, s, i in zip(x.shape, spans, low, strict=True)]
                found.append(lax.slice(x, low, high, strides))
            return jnp.stack(found)

        return self._largest(self._affine(slices, [padded]))

    def _scan(self, equation: Any, operands: list[Any]) -> list[Any]:
        """Returns the outputs of a loop, unrolled; None for those that bounds are not known of."""
        params, body = equation.params, equation.params["jaxpr"].jaxpr
        # Its parameters name constants, carry and sequences in each version of JAX in another
        # way; sequences are those that have an axis more outside than inside.
        num_sequences, num_stacked = (
            sum(x.aval.ndim > y.aval.ndim for x, y in zip(outside, inside, strict=True))
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
        rows: list[list[Any]] = []
        for step in range(params["length"])[::direction]:
            elements = [self._map(lambda x, step=step: x[step], [x]) for x in sequences]
            outputs = self.run(params["jaxpr"], [*constants, *carry, *elements])
            carry = outputs[:num_carry]
            rows.append(outputs[num_carry:])
        columns = zip(*rows[::direction], strict=True)
        return [*carry, *(self._map(lambda *row: jnp.stack(row), column) for column in columns)]

    def _map(self, linear: Callable[..., Array], operands: Sequence[Any]) -> Any:
        """Returns the value of a linear function of symbols, of arrays, or of both."""
        if any(isinstance(x, _Sign) for x in operands):
            return None
        if any(isinstance(x, _Symbol) for x in operands):
            return self._affine(linear, operands)
        return linear(*operands)


def _known(x: Any) -> bool:
    return not isinstance(x, (_Symbol, _Sign, Tracer))


def _is_zero(x: Any) -> bool:
    return _known(x) and not np.any(np.asarray(x))


def _evaluate(equation: Any, operands: Sequence[Any]) -> list[Any]:
    """Returns the outputs of an equation on arrays, of a product in float32 on every device."""
    params = equation.params
    if equation.primitive.name in ("dot_general", "conv_general_dilated"):
        params = {**params, "precision": (lax.Precision.HIGHEST,) * 2}
    if equation.primitive.name == "conv_general_dilated":
        return [_convolve(*operands, **params)]
    # Single numbers stay known under jit: slopes and thresholds are recognised by their value.
    known = all(_known(x) and np.size(x) == 1 for x in operands)
    with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
        outputs = equation.primitive.bind(*operands, **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def _convolve(x: Any, kernel: Any, *, dimension_numbers: Any, **params: Any) -> Array:
    """Returns a convolution of any layout, computed in NHWC and HWIO.

    XLA:CPU puts other layouts, such as a transposed convolution's, on a naive path in the body
    of a loop.
    """
    (batch, channels, *space), (outputs, inputs, *kernel_space), out_axes = dimension_numbers
    last = len(space) + 1
    spatial = tuple(range(1, last))
    layout = lax.ConvDimensionNumbers(
        (0, last, *spatial), (last, last - 1, *range(last - 1)), (0, last, *spatial)
    )
    value = lax.conv_general_dilated_p.bind(
        jnp.transpose(x, (batch, *space, channels)),
        jnp.transpose(kernel, (*kernel_space, inputs, outputs)),
        dimension_numbers=layout,
        **params,
    )
    batch, channels, *space = out_axes
    return jnp.transpose(value, np.argsort((batch, *space, channels)).tolist())
