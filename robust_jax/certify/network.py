"""A graph as data: its arrays are leaves, what acts on them is found by what it computes.

Everything that is compiled is one node's work, with its arrays as arguments. Layers that compute
the same share it, so that the time to compile grows with the number of distinct layers.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jaxtyping import Array, PyTree

from robust_jax.certify import graph as graphs
from robust_jax.certify.activations import Kind
from robust_jax.certify.heads import Head
from robust_jax.certify.interpreter import evaluate, trace
from robust_jax.certify.local import Local, recognise
from robust_jax.runtime.live import compiled
from robust_jax.runtime.programs import Program


def _static() -> dict[str, bool]:
    return {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Map:
    """A function of arrays. (Fields of pytrees are of any type: JAX fills them with stand-ins.)

    Attributes:
        captured: arrays that it holds.
        program: of these and its arguments.
    """

    captured: PyTree
    program: Program = dataclasses.field(metadata=_static())

    def __call__(self, *arguments: Array) -> list[Array]:
        """Returns its values."""
        return eval_jaxpr(self.program.closed.jaxpr, (), *self.captured, *arguments)


def as_map(function: Callable[..., object], shapes: Sequence[tuple[int, ...]]) -> Map:
    """Returns a function of float32 arrays of these shapes, traced."""
    avals = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    closed = jax.make_jaxpr(function)(*avals)

    def computed(captured: list[Array], *arguments: Array) -> list[Array]:
        return evaluate(closed, captured, *arguments)

    # What that makes on the way is held too: a program without arrays equals those of its like.
    inner = jax.make_jaxpr(computed)(closed.consts, *avals)
    captured = [*map(jnp.asarray, (*inner.consts, *closed.consts))]
    number = len(inner.consts)

    def of_arguments(captured: list[Array], *arguments: Array) -> list[Array]:
        return eval_jaxpr(inner.jaxpr, captured[:number], *captured[number:], *arguments)

    return Map(captured, Program(jax.make_jaxpr(of_arguments)(captured, *avals)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Input:
    """The images."""

    shape: tuple[int, ...] = dataclasses.field(metadata=_static())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Affine:
    """linear(*values of parents) + offset.

    Attributes:
        linear: jointly linear in the parents' values.
        spread: the map of the absolute values of its coefficients; None where none is negative.
        transposed: from coefficients on its value to those on its parents' values.
        local: of each parent, the convolution that the map is of it, None where it is none.
        offset: of the value's shape; None is zero.
        shape: of its value.
    """

    linear: Map
    spread: Map | None
    transposed: Map
    local: tuple[Local | None, ...]
    offset: PyTree
    shape: tuple[int, ...] = dataclasses.field(metadata=_static())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rectifier:
    """x where x >= 0 and negative_slope * x elsewhere (0 for ReLU)."""

    shape: tuple[int, ...] = dataclasses.field(metadata=_static())
    negative_slope: float = dataclasses.field(metadata=_static())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Elementwise:
    """A function of each element."""

    shape: tuple[int, ...] = dataclasses.field(metadata=_static())
    kind: Kind = dataclasses.field(metadata=_static())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Maximum:
    """The largest value along the leading axis."""

    shape: tuple[int, ...] = dataclasses.field(metadata=_static())


Bent = Rectifier | Elementwise | Maximum
"""What is not linear, and has lines around it."""

Node = Input | Affine | Bent


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """Nodes by number, in the order of evaluation: the images are the first, the value the last.

    Attributes:
        nodes: what each one is. Nodes that are alike are so wherever they stand.
        edges: each number, with those of the nodes that it acts on, each once.
        head: what is computed of the value last, and is no node; None for nothing.
    """

    nodes: dict[int, Node]
    edges: tuple[tuple[int, tuple[int, ...]], ...] = dataclasses.field(metadata=_static())
    head: Head | None = dataclasses.field(default=None, metadata=_static())

    @functools.cached_property
    def parents(self) -> dict[int, tuple[int, ...]]:
        """Numbers of the nodes that each acts on."""
        return dict(self.edges)

    @property
    def last(self) -> int:
        """The number of the value."""
        return max(self.nodes)

    @functools.cached_property
    def private(self) -> frozenset[int]:
        """Affine nodes that one node that is not linear acts on, and nothing else."""
        acting: dict[int, list[int]] = {}
        for number, parents in self.edges:
            for parent in parents:
                acting.setdefault(parent, []).append(number)
        return frozenset(
            number
            for number, others in acting.items()
            if isinstance(self.nodes[number], Affine)
            and len(others) == 1
            and isinstance(self.nodes[others[0]], Bent)
        )


@functools.partial(compiled, static_argnames=("shape",))
def prepare(function: Callable[[Array], Array], shape: tuple[int, ...]) -> Network:
    """Returns the network of a function of float32 images of this shape.

    Raises:
        ValueError: an operation on the images is none that bounds are known of.
    """
    graph, head = trace(function, shape), None
    for number, node in list(graph.items()):
        if isinstance(node, graphs.Last):
            head = node.head
            del graph[number]
    return Network(
        {number: _prepared(node, graph) for number, node in graph.items()},
        tuple((number, node.parents) for number, node in graph.items()),
        head,
    )


def _prepared(node: graphs.Node, graph: graphs.Graph) -> Node:
    assert not isinstance(node, graphs.Last)
    if isinstance(node, graphs.Input):
        return Input(node.shape)
    if isinstance(node, graphs.Rectifier):
        return Rectifier(node.shape, node.negative_slope)
    if isinstance(node, graphs.Elementwise):
        return Elementwise(node.shape, node.kind)
    if isinstance(node, graphs.Maximum):
        return Maximum(node.shape)
    shapes = [graph[parent].shape for parent in node.parents]
    avals = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    linear = as_map(node.linear, shapes)
    # With the arrays that it holds as numbers, where they are some.
    closed = jax.make_jaxpr(node.linear)(*avals)
    return Affine(
        linear=linear,
        spread=None if node.spread is None else as_map(node.spread, shapes),
        transposed=as_map(jax.linear_transpose(node.linear, *avals), [node.shape]),
        local=tuple(recognise(closed, place) for place in range(len(shapes))),
        offset=node.offset,
        shape=node.shape,
    )


def forward(node: Affine | Bent, operands: Sequence[Array]) -> Array:
    """Returns a node's value from its parents' values."""
    if isinstance(node, Rectifier):
        return jnp.maximum(operands[0], node.negative_slope * operands[0])
    if isinstance(node, Elementwise):
        return node.kind.value(operands[0])
    if isinstance(node, Maximum):
        return jnp.max(operands[0], axis=0)
    (value,) = node.linear(*operands)
    return value if node.offset is None else value + node.offset
