"""From a function to its graph: its jaxpr is evaluated on symbols of what depends on the images.

No rule of propagation is written here. A linear operation stays the primitive that it is: JAX
transposes it, and the same primitive with absolute coefficients bounds its spread.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var
from jax.typing import ArrayLike
from jaxtyping import Array

from robust_jax.certify.activations import Kind
from robust_jax.certify.building import Builder
from robust_jax.certify.equations import MOVES, evaluated
from robust_jax.certify.graph import Linear, Node, contract, prune
from robust_jax.certify.heads import Head
from robust_jax.certify.patterns import ACTIVATIONS, HEADS, Traced, argument_of
from robust_jax.certify.values import (
    Symbol,
    Term,
    Value,
    are_arrays,
    folded,
    is_sign,
    number_of,
    unknown_operation,
)

# Linear in these operands with no negative coefficient; the others must not depend on the images.
_MONOTONE = {
    **dict.fromkeys(("add", "add_any", "concatenate", "pad", "stack"), slice(None)),
    **dict.fromkeys(("broadcast_in_dim", "expand_dims", "reshape", "squeeze"), slice(1)),
    **dict.fromkeys(("rev", "sharding_constraint", "tile", "transpose"), slice(1)),
    **dict.fromkeys(("dynamic_slice", "slice", "split"), slice(1)),
    **dict.fromkeys(("cumsum", "reduce_sum", "reduce_window_sum"), slice(1)),
    "select_n": slice(1, None),
}
# Linear in one operand, with the other as coefficients.
_PRODUCTS = ("mul", "div", "dot_general", "conv_general_dilated")
_CALLS = {
    **dict.fromkeys(("jit", "checkpoint", "remat2"), "jaxpr"),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}
# Operations of each element, of which an activation that is no node yet may be made.
_ELEMENTWISE = (
    *("abs", "add", "div", "erf", "erfc", "exp", "expm1", "ge", "gt", "integer_pow", "le", "log"),
    *("log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "select_n", "sub", "tanh"),
)
# They change nothing.
_IDENTITIES = ("copy", "optimization_barrier", "stop_gradient")


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
    outputs = [tracer.headed(x) if isinstance(x, Term) else x for x in outputs]
    for output in outputs:
        if isinstance(output, Term):
            raise _unknown(unknown_operation(output))
    if len(outputs) != 1 or not isinstance(outputs[0], Symbol):
        raise ValueError("Expected the function to give one array that depends on the images.")
    return contract(prune(tracer.nodes, outputs[0].node))


def evaluate(closed: ClosedJaxpr, captured: Sequence[Array], *arguments: Array) -> list[Array]:
    """Returns the outputs of a jaxpr of arrays, with convolutions as XLA:CPU is quick at them."""
    outputs = _Tracer(()).run(closed, arguments, captured)
    assert are_arrays(outputs)
    return list(map(jnp.asarray, outputs))


def traced(function: Callable[[Array], Array], shape: tuple[int, ...]) -> Traced:
    """Returns a function of the symbol 0 as operations of which none is recognised."""
    closed = jax.make_jaxpr(lambda x: function(x))(jax.ShapeDtypeStruct(shape, jnp.float32))
    tracer = _Tracer(shape, ())
    (value,) = tracer.run(closed, [Symbol(0)])
    return Traced(value, tracer.made)


@functools.cache
def _activations() -> tuple[tuple[Traced, Kind], ...]:
    return tuple((traced(function, ()), kind) for function, kind in ACTIVATIONS)


@functools.cache
def _heads(shape: tuple[int, ...]) -> tuple[tuple[Traced, Head], ...]:
    return tuple((traced(function, shape), head) for function, head in HEADS) if shape else ()


class _Tracer(Builder):
    """Evaluates a jaxpr on arrays and symbols; what acts on symbols becomes nodes."""

    def __init__(
        self, shape: tuple[int, ...], known: Sequence[tuple[Traced, Kind]] | None = None
    ) -> None:
        super().__init__(shape)
        self._known = known
        self._moves: dict[tuple[Value, Primitive, str], Value | None] = {}

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
            called = params[_CALLS[name]]
            closed = ClosedJaxpr(called, ()) if isinstance(called, Jaxpr) else called
            return self.run(closed, operands)
        if are_arrays(operands):
            return [*evaluated(equation, operands)]
        if name in _IDENTITIES:
            return operands
        if name == "convert_element_type":
            before, after = (_type(x).dtype for x in (equation.invars[0], equation.outvars[0]))
            if before == after == jnp.float32:
                return operands
            if before == jnp.float32:
                raise ValueError(
                    "Expected values that depend on the images to stay float32, found the "
                    f"operation {name!r} to {after}."
                )
        count, term = len(self.nodes), Term(name, params, tuple(operands))
        outputs = self._outputs(equation, operands)
        if outputs == [None]:
            outputs = [self._activation(term, _type(equation.outvars[0]).shape) or term]
        known = [x for x in outputs if x is not None]
        if len(known) < len(outputs):
            raise _unknown(name)
        for x in known:
            if isinstance(x, Symbol) and x.node >= count and len(known) == 1:
                self.made[x.node] = term
        return known

    def _outputs(self, equation: JaxprEqn, operands: list[Value]) -> Sequence[Value | None]:
        """Returns the outputs of an equation as nodes, None of what is none."""
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            return self._scan(equation, operands)
        if name == "select_n" and (chosen := self._choice(*operands)):
            return [chosen]
        if any(isinstance(x, Term) for x in operands):
            moved = self._moved(equation, operands[0]) if name in MOVES else None
            return [moved] if moved is not None else [None] * len(equation.outvars)
        match name:
            case "max":
                return [self.larger(*operands)]
            case "min":
                return [self.smaller(*operands)]
            case "clamp":
                return [self.clamped(*operands)]
            case "abs":
                return [self.rectifier(operands[0], self.negative(operands[0]))]
            case "reduce_max":
                return [self.reduce_max(operands[0], _axes(params))]
            case "reduce_min":
                return [self.reduce_min(operands[0], _axes(params))]
            case "reduce_window_max" | "reduce_window_min":
                return [self.pool(operands[0], equation)]
            case "gather":
                x, places = operands
                return [self.gathered(x, places, equation)]
            case _:
                outputs = self._linear(equation, operands)
                if name in MOVES:
                    # As a term's operand was moved before, or one will be.
                    return [self._moves.setdefault(_move(equation, operands[0]), outputs[0])]
                return outputs

    def _linear(self, equation: JaxprEqn, operands: list[Value]) -> Sequence[Value | None]:
        """Returns the outputs of a linear equation, None of another."""
        name = equation.primitive.name
        inside = [isinstance(x, Symbol) for x in operands]
        nothing = [None] * len(equation.outvars)
        if name == "neg":
            return [self.negative(operands[0])]
        if name == "sub":
            return [self.sum(operands[0], self.negative(operands[1]))]
        if name in _PRODUCTS and sum(inside) == 1 and (name != "div" or inside[0]):
            first, second = operands
            return [self.product(equation, first, second)]
        places = range(len(operands))[_MONOTONE.get(name, slice(0))]
        if not set(itertools.compress(range(len(operands)), inside)) <= set(places):
            return nothing

        def output(number: int, *values: ArrayLike) -> Array:
            filled = operands.copy()
            for place, value in zip(places, values, strict=True):
                filled[place] = value
            assert are_arrays(filled)
            return evaluated(equation, filled)[number]

        return [
            self.affine(functools.partial(output, number), [operands[place] for place in places])
            for number in range(len(equation.outvars))
        ]

    def headed(self, term: Term) -> Symbol | Term:
        """Returns a function's value as a softmax of scores, or as it is where it is none."""
        for shape in {node.shape for node in self.nodes}:
            for pattern, head in _heads(shape):
                argument = argument_of(Traced(term, self.made), pattern)
                if argument is not None and self.nodes[argument.node].shape == shape:
                    return self.last(head, argument)
        return term

    def _moved(self, equation: JaxprEqn, x: Value) -> Value | None:
        """Returns a term of elements that an equation moves, as a term of its moved operands."""
        return folded(functools.partial(self._moved_alone, equation), x)

    def _moved_alone(
        self, equation: JaxprEqn, x: Value, operands: Sequence[Value | None]
    ) -> Value | None:
        if isinstance(x, Symbol):
            if self.nodes[x.node].shape != _type(equation.invars[0]).shape:
                return None
            # One node, however often: a pattern asks whether its operands are the same.
            key = _move(equation, x)
            if key not in self._moves:
                (self._moves[key],) = self._linear(equation, [x])
            return self._moves[key]
        if not isinstance(x, Term):
            number = number_of(x)
            return None if number is None else np.asarray(number, np.asarray(x).dtype)
        known = tuple(one for one in operands if one is not None)
        is_moved = x.operation in _ELEMENTWISE and len(known) == len(operands)
        return Term(x.operation, x.params, known) if is_moved else None

    def _choice(self, condition: Value, *cases: Value) -> Symbol | None:
        """Returns a rectifier that is written as a choice by the sign of what it acts on."""
        if not isinstance(condition, Term) or not is_sign(condition):
            return None
        negative, positive = cases if condition.operation in ("ge", "gt") else cases[::-1]
        same = isinstance(positive, Symbol) and positive == condition.operands[0]
        return self.rectifier(positive, negative) if same else None

    def _activation(self, term: Term, shape: tuple[int, ...]) -> Symbol | None:
        """Returns a term's value where it is an activation that is known."""
        found = Traced(term, self.made)
        for pattern, kind in _activations() if self._known is None else self._known:
            argument = argument_of(found, pattern)
            if argument is not None and self.nodes[argument.node].shape == shape:
                return self.elementwise(kind, argument)
        return None

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
                return [None] * len(equation.outvars)
            outputs = self.run(params["jaxpr"], [*constants, *carry, *elements])
            carry = outputs[:num_carry]
            rows.append(outputs[num_carry:])
        columns = zip(*rows[::direction], strict=True)
        return [*carry, *(self._map(lambda *row: jnp.stack(row), column) for column in columns)]

    def _map(self, linear: Linear, operands: Sequence[Value]) -> Symbol | Array | None:
        """Returns the value of a linear function of symbols, of arrays, or of both."""
        if any(isinstance(x, Term) for x in operands):
            return None
        return linear(*operands) if are_arrays(operands) else self.affine(linear, operands)


def _axes(params: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, params["axes"]))  # vmap makes them NumPy's


def _move(equation: JaxprEqn, x: Value) -> tuple[Value, Primitive, str]:
    return x, equation.primitive, str(equation.params)


def _unknown(name: str) -> ValueError:
    return ValueError(
        f"Expected the operation {name!r} on values that depend on the images to be linear in "
        "them, a maximum, or a part of an activation that bounds are known of."
    )


def _row(number: int, *values: ArrayLike) -> Array:
    return jnp.asarray(values[0])[number]


def _type(atom: Var | Literal) -> ShapedArray:
    assert isinstance(atom.aval, ShapedArray)
    return atom.aval
