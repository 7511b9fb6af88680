"""Measure: a question that an evaluation asks of a model beside attacks and certificates."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, PyTree
from matplotlib.figure import Figure

from robust_jax import rng
from robust_jax.analysis import TapsView
from robust_jax.attacks import Attack, bind
from robust_jax.evaluation.summary import Beside
from robust_jax.methods import Method, MethodConfig
from robust_jax.runtime.compilation import jitted
from robust_jax.types import Variables, View

REDUCED_EXAMPLES = 64
"""Images that are asked, attacked and certified at the small budget."""

NUM_STARTS = 256
"""Clean images that decision attacks may begin at."""


class Subject(NamedTuple):
    """Whom a measure asks, and on which images.

    Attributes:
        method: what is evaluated.
        config: its configuration; None of a function that was handed in.
        variables: its arrays; shapes alone will do for `Measure.missing`.
        images: clean images.
        labels: their classes.
        class_names: in label order.
        key: of random draws.
        batch_size: images to a pass.

    Example:
        >>> from robust_jax.evaluation import Model
        >>> from robust_jax.evaluation.measures import Subject
        >>> model = Model.of(lambda images: images.mean(axis=(1, 2)), num_classes=3)
        >>> subject = Subject(
        ...     model.method, model.config, model.variables,
        ...     images=jnp.zeros((4, 2, 2, 3)), labels=jnp.zeros(4, jnp.int32),
        ...     class_names=("a", "b", "c"), key=jax.random.key(0), batch_size=2,
        ... )
        >>> subject.ask("members", subject.images, key=subject.key, axis=1).shape
        (1, 4, 3)
    """

    method: Method
    config: MethodConfig | None
    variables: Variables
    images: Float[Array, "b h w k"]
    labels: Int[Array, " b"]
    class_names: Sequence[str]
    key: Key[Array, ""]
    batch_size: int

    def view(self, name: str) -> View:
        """Returns a view of the method bound to its arrays."""
        return bind(self.method.view(name), self.variables)

    @property
    def taps(self) -> TapsView:
        """Returns the method's activations, by layer, bound to its arrays."""
        if self.method.taps is None:
            raise ValueError("Expected a model that shows its activations.")
        return jax.tree_util.Partial(self.method.taps, self.variables)

    def batches(self, images: Array | None = None) -> list[slice]:
        """Returns the parts that images are taken in, as equal as can be: a size compiles once.

        Args:
            images: which; None for the clean ones.
        """
        count = len(self.images if images is None else images)
        size = max(1, -(-count // max(1, -(-count // self.batch_size))))
        return [slice(start, start + size) for start in range(0, count, size)]

    def ask(
        self, view: str | TapsView, images: Array, *, key: Key[Array, ""], axis: int = 0
    ) -> PyTree:
        """Returns a view, or activations, of all images, batches joined along the examples' axis.

        Every batch has the same key. A model with draws for each call is the same draw on all
        images; of one with draws for each row they belong to the place in a batch, so that a number
        of it follows `batch_size` as one of other draws would.
        """
        run, bound = _compiled_view(), self.view(view) if isinstance(view, str) else view
        batches = [run(bound, images[part], key) for part in self.batches(images)]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=axis), *batches)

    def attacked(self, attack: Attack, view: str) -> Float[Array, "b h w k"]:
        """Returns the images after an attack on a view, see `attacked_parts`."""
        return jnp.concatenate(list(self.attacked_parts(attack, view)))

    def attacked_parts(self, attack: Attack, view: str) -> Iterator[Float[Array, "b h w k"]]:
        """Yields the images after an attack on a view, by `batches`.

        They are moved away from their labels, of a targeted attack towards a random other class
        each. An attack that begins at other images begins at the first of these.
        """
        bound, key = self.view(view), rng.stream(self.key, "attack")
        traced = isinstance(self.images, Tracer)
        call = attack.dry_run if traced else attack
        begun = {"starts": self.images[:NUM_STARTS]} if attack.takes_starts and not traced else {}

        def run(
            bound: View, images: Array, labels: Array, index: Array, begun: Mapping[str, Array]
        ) -> Array:
            return call(bound, images, labels, key=key, index=index, **begun)

        compiled = run if attack.on_host else jitted(run)
        labels, index = self.labels, jnp.arange(len(self.images), dtype=jnp.int32)
        if attack.targeted:
            others = rng.stream(self.key, "targets")
            labels = rng.other_classes(others, labels, index, len(self.class_names))
        for part in self.batches():
            yield compiled(bound, self.images[part], labels[part], index[part], begun)

    def shape_of(self, view: str) -> PyTree:
        """Returns the shape of a view of one image; nothing is run."""
        return self._shapes(self.view(view))

    def shapes_of_taps(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of one image's activations, by layer; nothing is run."""
        return self._shapes(self.taps)

    def _shapes(self, bound: View | TapsView) -> PyTree:
        key = jax.eval_shape(lambda: jax.random.key(0))
        one = jax.ShapeDtypeStruct((1, *self.images.shape[1:]), self.images.dtype)
        shapes = jax.eval_shape(lambda v, images, key: v(images, key=key), bound, one, key)
        return jax.tree.map(lambda leaf: leaf.shape, shapes)


@functools.cache
def _compiled_view() -> Callable[[View | TapsView, Array, Key[Array, ""]], PyTree]:
    return jitted(lambda bound, images, key: bound(images, key=key))


class Found(NamedTuple):
    """What a measure says.

    Attributes:
        section: of the report.
        numbers: for summary.json.
        lines: of the page's table, what and how much; both are HTML.
        figures: of the report, each with what it shows, which is its text alternative too.
        about: what the lines are, in a sentence of HTML.
        beside: by place in `numbers`, what a paper prints there, and ours.

    Example:
        >>> from robust_jax.evaluation.measures import Found
        >>> found = Found("Members of the ensemble", {"entropy": 0.4}, (("entropy E", "0.40"),))
        >>> found.numbers["entropy"]  # in summary.json; the lines are the page's
        0.4
    """

    section: str
    numbers: Mapping[str, object]
    lines: tuple[tuple[str, str], ...] = ()
    figures: tuple[tuple[Figure, str], ...] = ()
    about: str = ""
    beside: Mapping[str, Beside] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class PrintedNumbers:
    """Numbers that a paper prints of what a measure asks, to stand beside ours.

    Attributes:
        table: where.
        rows: by configuration name of the checkpoint, then by where our number stands in the
            answer ("interrater_agreement.mean"; of a list by its place, "L_d.0" the first).

    Example:
        >>> from robust_jax.evaluation.measures import PrintedNumbers
        >>> printed = PrintedNumbers("Table 1 of a paper", {"mine_cifar10": {"entropy.mean": 0.3}})
        >>> printed.beside({"entropy": {"mean": 0.35}}, "mine_cifar10")
        {'entropy.mean': {'paper': 0.3, 'ours': 0.35}}
    """

    table: str
    rows: dict[str, dict[str, float]]

    def beside(self, numbers: Mapping[str, object], name: str) -> dict[str, Beside]:
        """Returns by place the `paper`'s number and `ours`, of one checkpoint; {} of others.

        Raises:
            ValueError: the answer has no such number.
        """
        pairs: dict[str, Beside] = {}
        for place, paper in self.rows.get(name, {}).items():
            ours: object = numbers
            for part in place.split("."):
                if isinstance(ours, list):
                    ours = dict(zip(map(str, range(len(ours))), ours, strict=True))
                ours = ours.get(part, "none") if isinstance(ours, Mapping) else "none"
            if ours is not None and not isinstance(ours, int | float):
                raise ValueError(f"Expected printed={place!r} to be one of the answer's numbers.")
            pairs[place] = {"paper": paper, "ours": ours}
        return pairs


OneMeasure = TypeVar("OneMeasure", bound="Measure")


@dataclasses.dataclass(frozen=True)
class Measure(abc.ABC):
    """A question; subclasses ask it.

    Attributes:
        num_examples: the first chosen images that it is asked on; None for all.
        printed: what a paper prints of it; changes no number of ours.

    Example:
        >>> import dataclasses
        >>> from robust_jax.evaluation.measures import Found, Measure
        >>> @dataclasses.dataclass(frozen=True)
        ... class Confidence(Measure):
        ...     def missing(self, subject):
        ...         return None  # every model can be asked
        ...     def __call__(self, subject):
        ...         scores = subject.ask("deployed", subject.images, key=subject.key)
        ...         confidence = float(jax.nn.softmax(scores).max(axis=-1).mean())
        ...         return Found(self.section, {"confidence": confidence})
        >>> Confidence(num_examples=1000).reduced().num_examples
        64
    """

    section: ClassVar[str] = "Inside the network"

    num_examples: int | None = 64
    printed: PrintedNumbers | None = None

    def __post_init__(self) -> None:
        if self.num_examples is not None and self.num_examples < 1:
            raise ValueError(f"Expected num_examples={self.num_examples} >= 1.")

    def reduced(self: OneMeasure) -> OneMeasure:
        """Returns the measure at the small budget, of 64 images; one that attacks says more."""
        fewer = min(self.num_examples or REDUCED_EXAMPLES, REDUCED_EXAMPLES)
        return dataclasses.replace(self, num_examples=fewer)

    @abc.abstractmethod
    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks to be asked; None where nothing is."""

    @abc.abstractmethod
    def __call__(self, subject: Subject) -> Found:
        """Returns the answer."""


def lacks_taps(subject: Subject) -> str | None:
    """Returns what a method without activations to look at lacks."""
    return "activations (`Method.taps`)" if subject.method.taps is None else None


def lacks_members(subject: Subject) -> str | None:
    """Returns what a method whose view `members` has less than two lacks."""
    return None if subject.shape_of("members")[0] > 1 else "two members"


def lacks_networks(subject: Subject) -> str | None:
    """Returns what a method lacks whose members are not networks with activations of their own.

    Draws of one random network and REGroup's layers are not.
    """
    if lacks_taps(subject) or lacks_members(subject):
        return "members that are networks"
    tap = next(iter(subject.shapes_of_taps().values()))
    own = tap[0] if len(tap) % 2 else 1  # see analysis.with_members
    return None if own == subject.shape_of("members")[0] else "members that are networks"


def member_names(number: int) -> list[str]:
    """Returns what members are called."""
    return [f"member {n + 1}" for n in range(number)]
