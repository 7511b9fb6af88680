"""Method: the record of pure functions that every defence is, and its configuration."""

import abc
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Float, Int, Key

from robust_jax import voting
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.deployment import Deployment
from robust_jax.methods.runs import Report as Metrics
from robust_jax.methods.terms import Term
from robust_jax.models import (
    ActivationDtype,
    Classifier,
    LayerChange,
    Layers,
    NetworkConfig,
    Normalization,
    Phase,
    ResNetConfig,
    changed,
    default_layers,
)
from robust_jax.models.changes import check_changes
from robust_jax.types import Batch, MethodTaps, MethodView, Outputs, Task, Variables

Part = TypeVar("Part", bound=Term | LayerChange)


@runtime_checkable
class Init(Protocol):
    """Returns fresh variables."""

    def __call__(self, *, key: Key[Array, ""]) -> Variables: ...


@runtime_checkable
class Loss(Protocol):
    """Returns the scalar to minimise, and (moved collections, metrics)."""

    def __call__(
        self,
        variables: Variables,
        batch: Batch,
        /,
        *,
        key: Key[Array, ""],
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]: ...


@runtime_checkable
class Fit(Protocol):
    """Returns the variables with the collection that a pass over training batches makes."""

    def __call__(
        self, variables: Variables, batches: Iterable[Batch], /, *, key: Key[Array, ""]
    ) -> Variables: ...


@runtime_checkable
class Forward(Protocol):
    """Returns the outputs of a pass, and the collections that it moves."""

    def __call__(
        self,
        variables: Variables,
        images: Float[Array, "b h w k"],
        /,
        *,
        key: Key[Array, ""] | None,
        train: bool,
        deterministic: bool,
    ) -> tuple[Outputs, Variables]: ...


class Epochs(NamedTuple):
    """The epochs of a run, for a loss that changes with them.

    Attributes:
        at: traced step -> number of the epoch that it belongs to, from 0.
        count: of the whole run.

    Example:
        >>> from robust_jax.methods import Epochs
        >>> epochs = Epochs(at=lambda step: step // 390, count=200.0)  # 390 batches an epoch
        >>> int(epochs.at(jnp.asarray(1000)))
        2
    """

    at: Callable[[Int[Array, ""]], Int[Array, ""]]
    count: float  # pyright: ignore[reportIncompatibleMethodOverride] (a tuple's own)


InRun = Callable[[Epochs], Loss]


class Method(NamedTuple):
    """A defence as pure functions.

    Attributes:
        init: fresh variables, a nested dict {'params', 'batch_stats', ...}.
        loss: training objective; moves BatchNorm statistics and the like.
        predict: the deployed rule, scores [b c]; may be random, flat or voted. Where it votes by
            `mean_probability` or `mean_logit`, or is one network, they are logits or log
            probabilities; by another vote, and of REGroup (Borda counts), shares or counts.
        views: by name, what an adversary may differentiate. Every method has `deployed` (the
            deployed randomness, differentiable), `train` (batch statistics) and `members`
            [m b c]; each method's docstring says what its own views are.
        stochastic: does `predict` consume its key?
        fit: post-hoc fitting on training batches, which adds the 'fitted' collection; None
            where the method has none.
        fitted: traceable; variables and a batch -> the variables as `fit` leaves them, in shape
            alone: what follows a fit is traced before there is one. Beside every `fit`.
        in_run: the loss in a run of these epochs; None where it does not ask. Outside a
            run such a loss counts epochs by its own batches.
        draws_per: what has draws of its own, where it is random: each "row" of a batch, or each
            "call", whose rows then share them. Who counts rows, as smoothing does, asks for each
            alone unless they are said to have their own.
        vote: by which rule `predict` decides over the view `members`; None where it does
            something else. Certificates of margins are made of it.
        taps: activations by layer; None of a function that shows none.

    Example:
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Task
        >>> task = Task((8, 8, 1), num_classes=10, num_train=1000)
        >>> method = Standard(CNNConfig(widths=(4,), strides=(2,))).make(task)
        >>> variables = method.init(key=jax.random.key(0))
        >>> images = jnp.zeros((2, 8, 8, 1))
        >>> method.predict(variables, images, key=None).shape
        (2, 10)
        >>> sorted(method.views), method.stochastic
        (['deployed', 'members', 'noise_off', 'train'], False)
    """

    init: Init
    loss: Loss
    predict: MethodView
    views: Mapping[str, MethodView]
    stochastic: bool = False
    fit: Fit | None = None
    fitted: Callable[[Variables, Batch], Variables] | None = None
    in_run: InRun | None = None
    draws_per: Literal["row", "call"] = "call"
    vote: voting.Vote | None = None
    taps: MethodTaps | None = None

    def view(self, name: str) -> MethodView:
        """Returns the view called `name`; "decision" is `predict` itself, "member_0" one member.

        "decision" is for attacks that compare scores or decisions alone (Square, Boundary, ...):
        it may be flat, voted, or give probabilities. "member_N" is entry N of `members`, for
        attacks on one network of an ensemble.

        Raises:
            ValueError: the method has no such view; of a member, when it is first called.
        """
        return find_view({**self.views, "decision": self.predict}, name)


def find_view(views: Mapping[str, MethodView], name: str) -> MethodView:
    """Returns the view called `name`, see `Method.view`."""
    member = re.fullmatch(r"member_(\d+)", name)
    if member is not None:
        return _one_member(views["members"], int(member[1]))
    if name not in views:
        raise ValueError(f"Expected view={name!r} to be one of {sorted(views)} or member_N.")
    return views[name]


def _one_member(members: MethodView, number: int) -> MethodView:
    def view(variables, images, *, key=None):
        scores = members(variables, images, key=key)
        if number >= len(scores):
            raise ValueError(f"Expected view='member_{number}' below the {len(scores)} members.")
        return scores[number]

    return view


@dataclasses.dataclass(frozen=True)
class MethodConfig(abc.ABC):
    """Hyper-parameters that every defence has; subclasses add theirs and build the record.

    Attributes:
        network: architecture.
        normalization: of images, inside the model.
        dtype: of activations; parameters, losses and logits stay float32.
        label_smoothing: share of the target spread evenly over all classes.
        vote: how an ensemble's members decide together; no matter for a single network.
        changes: of the network's layers, in this order, after those of the paper itself.
        terms: of the loss, added to those of the paper itself.
        deployment: passes of a prediction, where it is random; None is as the paper has it.

    Raises:
        ValueError: a field out of range, two terms or changes of a class, a term that cannot be
            asked of the network, or a deployment of what draws nothing.

    Example:
        >>> import dataclasses
        >>> from robust_jax.methods import KAP, Dropout, Standard
        >>> from robust_jax.models import InputNoise
        >>> config = Standard(label_smoothing=0.1, changes=(InputNoise(0.1), Dropout(0.2)))
        >>> [type(change).__name__ for change in config.all_changes]
        ['InputNoise', 'Dropout']
        >>> dataclasses.replace(KAP(), sigma=0.2).own_changes[1].sigma
        0.2
    """

    network: NetworkConfig = ResNetConfig()
    normalization: Normalization = Normalization()
    dtype: ActivationDtype = "float32"
    label_smoothing: float = 0.0
    vote: voting.Vote = "mean_probability"
    changes: tuple[LayerChange, ...] = ()
    terms: tuple[Term, ...] = ()
    deployment: Deployment | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"Expected 0 <= label_smoothing={self.label_smoothing} < 1.")
        check_changes(self.all_changes)
        kinds = [type(term).__name__ for term in self.all_terms]
        for kind, term in zip(kinds, self.all_terms, strict=True):
            if kinds.count(kind) > 1:
                raise ValueError(f"Expected terms={kinds} to have {kind} once.")
            term.check(self.network)
        deployed = self.deployed_by  # the paper's own is checked as it is made
        if deployed and self.deployment and not self.samples_in("prediction"):
            raise ValueError(
                f"Expected deployment=None of {type(self).__name__}: nothing draws at prediction."
            )

    def part(self, kind: type[Part], **named: object) -> Part:
        """Returns a term or a change that has the method's fields of the same names.

        Args:
            kind: its class.
            **named: further fields.
        """
        mine = {field.name for field in dataclasses.fields(self)} - named.keys()
        names = [field.name for field in dataclasses.fields(kind) if field.name in mine]
        return kind(**{name: getattr(self, name) for name in names}, **named)

    @property
    def own_changes(self) -> tuple[LayerChange, ...]:
        """Returns what the paper changes in a network's layers."""
        return ()

    @property
    def all_changes(self) -> tuple[LayerChange, ...]:
        """Returns all changes of the network's layers, in their order."""
        return (*self.own_changes, *self.changes)

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns what the paper's loss is a sum of."""
        return (CrossEntropy(),)

    @property
    def all_terms(self) -> tuple[Term, ...]:
        """Returns the summands of the loss."""
        return (*self.own_terms, *self.terms)

    @property
    def own_deployment(self) -> Deployment | None:
        """Returns how the paper deploys it; None is one pass."""
        return None

    @property
    def deployed_by(self) -> Deployment | None:
        """Returns how it is deployed; None is one pass."""
        return self.deployment or self.own_deployment

    def classifier(
        self, task: Task, layers: Layers = default_layers(), *, member: bool = False
    ) -> Classifier:
        """Returns the network behind its normalisation, its layers changed.

        Args:
            task: the dataset's shape.
            layers: before they are changed.
            member: one member alone, of an ensemble?
        """
        network = getattr(self.network, "member", self.network) if member else self.network
        backbone = network.make(task.num_classes, changed(layers, self.all_changes))
        return Classifier(backbone, self.normalization, self.dtype)

    def samples_in(self, phase: Phase) -> bool:
        """Returns whether something in the network is random in a phase."""
        return any(phase in change.phases for change in self.all_changes)

    @abc.abstractmethod
    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: a hyper-parameter does not fit the task.
        """
