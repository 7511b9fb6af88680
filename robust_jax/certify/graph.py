"""A network as bound propagation sees it: affine maps between functions that bend, and maxima."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from robust_jax.certify.activations import Kind
from robust_jax.certify.heads import Head


@runtime_checkable
class Linear(Protocol):
    """Returns an array that is jointly linear in these."""

    def __call__(self, *values: ArrayLike) -> Array: ...


class Input(NamedTuple):
    """The images.

    Attributes:
        parents: none.
        shape: theirs.
    """

    parents: tuple[()]
    shape: tuple[int, ...]


class Affine(NamedTuple):
    """linear(*values of parents) + offset.

    Attributes:
        parents: numbers of the nodes that it acts on, each once.
        shape: of its value.
        linear: jointly linear in its arguments.
        spread: the map of the absolute values of its coefficients; None where none is negative.
        offset: of the value's shape; None is zero.
    """

    parents: tuple[int, ...]
    shape: tuple[int, ...]
    linear: Linear
    spread: Linear | None = None
    offset: Array | None = None


class Rectifier(NamedTuple):
    """x where x >= 0 and negative_slope * x elsewhere (0 for ReLU, -1 for the absolute value).

    Attributes:
        parents: the number of the node that it acts on.
        shape: of its value.
        negative_slope: at most 1, and finite.
    """

    parents: tuple[int]
    shape: tuple[int, ...]
    negative_slope: float


class Elementwise(NamedTuple):
    """A function of each element.

    Attributes:
        parents: the number of the node that it acts on.
        shape: of its value.
        kind: the function.
    """

    parents: tuple[int]
    shape: tuple[int, ...]
    kind: Kind


class Maximum(NamedTuple):
    """The largest value along the leading axis.

    Attributes:
        parents: the number of the node that it acts on.
        shape: of its value, without that axis.
    """

    parents: tuple[int]
    shape: tuple[int, ...]


class Last(NamedTuple):
    """A softmax over the last axis, or its logarithm, which nothing acts on.

    Attributes:
        parents: the number of the node that it acts on.
        shape: of its value.
        head: which of them.
    """

    parents: tuple[int]
    shape: tuple[int, ...]
    head: Head


Node = Input | Affine | Rectifier | Elementwise | Maximum | Last
Graph = Mapping[int, Node]
"""Nodes by number, in the order of evaluation: the images are the first, the value the last."""


def prune(nodes: Sequence[Node], last: int) -> dict[int, Node]:
    """Returns the images and those nodes that the last one's value depends on."""
    needed = {0, last}
    for number in range(last, 0, -1):
        if number in needed:
            needed.update(nodes[number].parents)
    return {number: nodes[number] for number in sorted(needed)}


def contract(graph: Graph) -> dict[int, Node]:
    """Returns the graph with each affine node inside its only consumer, where that is affine."""
    num_consumers = Counter(parent for node in graph.values() for parent in node.parents)
    contracted: dict[int, Node] = {}
    for number, node in graph.items():
        if isinstance(node, Affine):
            inner = {}
            for parent in node.parents:
                candidate = contracted[parent]
                if isinstance(candidate, Affine) and num_consumers[parent] == 1:
                    inner[parent] = contracted.pop(parent)
            node = _compose(node, inner, graph) if inner else node
        contracted[number] = node
    return contracted


def _compose(node: Affine, inner: Mapping[int, Affine], graph: Graph) -> Affine:
    """Returns the node as a function of its inner nodes' parents and its other parents."""
    nested = [inner[p].parents if p in inner else (p,) for p in node.parents]
    parents = tuple(dict.fromkeys(parent for group in nested for parent in group))

    def compose(part: Callable[[Affine], Linear]) -> Linear:
        def function(*values: ArrayLike) -> Array:
            given = dict(zip(parents, values, strict=True))
            operands = [
                part(inner[p])(*(given[q] for q in inner[p].parents)) if p in inner else given[p]
                for p in node.parents
            ]
            return part(node)(*operands)

        return function

    offset = node.offset
    if any(each.offset is not None for each in inner.values()):
        offsets = [inner[p].offset if p in inner else None for p in node.parents]
        offset = node.linear(
            *(
                jnp.zeros(graph[p].shape, jnp.float32) if each is None else each
                for p, each in zip(node.parents, offsets, strict=True)
            )
        )
        offset = offset if node.offset is None else offset + node.offset
    signed = any(each.spread is not None for each in (node, *inner.values()))
    return Affine(
        parents,
        node.shape,
        linear=compose(lambda each: each.linear),
        spread=compose(lambda each: each.spread or each.linear) if signed else None,
        offset=offset,
    )
