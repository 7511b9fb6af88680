"""Attacks inside a ball, made of runs."""

import abc
import dataclasses
import functools
from typing import ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.base import Attack
from robust_jax.attacks.checks import check_counts
from robust_jax.attacks.linearised import nearest_classes
from robust_jax.attacks.runs import Found, Given, Number, Run, best_of
from robust_jax.attacks.threat import Norm, ThreatModel
from robust_jax.checks import one_of
from robust_jax.types import Images, Index, KeyArray, Labels, View

BoundedType = TypeVar("BoundedType", bound="BoundedAttack")


@runtime_checkable
class Underway(Protocol):
    """What a run in segments has come to; a tree of arrays, rows are examples."""

    @property
    def best(self) -> Found:
        """Returns the best point on the way."""
        ...

    @property
    def ended(self) -> Bool[Array | np.ndarray, " b"]:
        """Returns where all further steps only repeat earlier ones, if the view does not draw."""
        ...


UnderwayType = TypeVar("UnderwayType", bound=Underway)

MOST_CANDIDATES = 100
"""Classes whose boundaries are linearised to find the nearest, the likeliest first."""


@dataclasses.dataclass(frozen=True)
class BoundedAttack(Attack):
    """An attack inside a ball: runs (restarts times targets), of which the best end is kept.

    A subclass defines `run`; the plan of runs is carried out here, and run by run by a suite, each
    on the examples that still stand.

    Guarantees:
        Also: the result is in the ball (`ThreatModel` states the rounding) and eps = 0 gives the
        images back.

    Attributes:
        threat: the ball.
        in_steps: can a run be watched (`Run.watched`)?
        norms: those of balls that it knows.
        num_restarts: runs, each with draws of its own. This and the next two are fields of the
            attacks that have a choice.
        num_targets: the likeliest other classes that the restarts are made towards, one after the
            other; 0 to leave the label.
        target_order: which classes come first: "logits", the likeliest; "malt", those of the
            nearest linearised boundaries: the gap of the logits over the dual norm of its
            gradient, for a forward pass and one backward pass for each other class (of the
            likeliest `MOST_CANDIDATES` at most).
        parallel: all runs at once, at so many times the memory; in turn the memory is that of one
            batch.

    Raises:
        ValueError: the norm is none that it knows, there are no runs, or (at a call) the ball is
            larger than the box.

    Example:
        >>> from robust_jax.attacks import PGD, ThreatModel
        >>> attack = PGD(ThreatModel("linf", eps=4 / 255), num_restarts=5)
        >>> attack.with_eps(8 / 255).threat == ThreatModel("linf", 8 / 255), attack.num_runs
        (True, 5)

    References:
        Melamed, Yehudai, Shamir, "MALT powers up adversarial attacks", arXiv 2407.02240, 2024.
    """

    in_steps: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    # Without annotations, so that subclasses may make them fields.
    num_restarts = 1
    num_targets = 0
    target_order = "logits"
    parallel = False

    threat: ThreatModel

    def __post_init__(self) -> None:
        """Raises ValueError where the ball is none, or there are no runs."""
        super().__post_init__()
        if not isinstance(self.threat, ThreatModel):
            raise ValueError(f"Expected threat={self.threat!r} to be a ThreatModel.")
        if self.threat.norm not in self.norms:
            raise ValueError(
                f"Expected norm={self.threat.norm!r} to be one of {sorted(self.norms)} for "
                f"{type(self).__name__}."
            )
        check_counts(self, "num_restarts")
        if self.num_targets < 0:
            raise ValueError(f"Expected num_targets={self.num_targets} >= 0.")
        one_of(self, "target_order", ("logits", "malt"))
        if self.target_order != "logits" and not self.num_targets:
            raise ValueError(
                f"Expected target_order={self.target_order!r} with num_targets=0 to be 'logits'."
            )

    @property
    def box(self) -> tuple[float, float]:
        """Returns the smallest and largest pixel value."""
        return self.threat.bounds

    def check(self, images: Array | np.ndarray) -> None:
        """Raises ValueError where the ball is larger than the box of such images."""
        self.threat.check(images.shape[1:])

    def with_eps(self: BoundedType, eps: float) -> BoundedType:
        """Returns the attack in a ball of another radius; of one that holds others, these too."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved = {name: _with_eps(value, eps) for name, value in fields.items()}
        return dataclasses.replace(self, **moved)

    @property
    def num_runs(self) -> int:
        """Returns the number of runs."""
        return self.num_restarts * max(self.num_targets, 1)

    def targets(self, given: Given) -> Int[Array, "b t"] | None:
        """Returns the classes that runs are made towards, in their order; None without targets."""
        if not self.num_targets:
            return None
        view, images, labels, key, *_ = given

        def logits_fn(images: Images) -> Float[Array, "b c"]:
            return losses.decision(view(images, key=rng.stream(key, "targets")))

        if self.target_order == "logits":
            return losses.ranked_targets(logits_fn(images), labels, self.num_targets)
        return nearest_classes(
            logits_fn, images, labels, self.num_targets, MOST_CANDIDATES, norm=self.threat.norm
        )

    def planned(self, number: Number, targets: Int[Array, "b t"] | None) -> Run:
        """Returns the run of this number: all restarts towards the first of `targets` come first.

        Args:
            number: which run.
            targets: from `targets`, found once for all runs.
        """
        if targets is None:
            return Run(number, restart=number)
        target = targets[:, number // self.num_restarts]
        return Run(number, restart=number % self.num_restarts, target=target)

    @abc.abstractmethod
    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of one run; it draws by `given.key`, `run.number` and `given.index`."""

    def perturb(self, given: Given) -> Images:
        """Returns the images of the best run."""
        targets = self.targets(given)
        return best_of(
            lambda number: self.run(self.planned(number, targets), given),
            self.num_runs,
            given.images,
            parallel=self.parallel,
        )


@dataclasses.dataclass(frozen=True)
class SegmentedAttack(BoundedAttack, Generic[UnderwayType]):
    """A bounded attack whose run can be made a few steps at a time.

    Guarantees:
        Where `in_segments`, the best point after the last segment is that of `run`.

    Attributes:
        first_step: number of the first step.
        num_steps: the number after that of the last step; a field.
    """

    first_step: ClassVar[int] = 0
    # Without an annotation, so that subclasses may make it a field.
    num_steps = 1

    @property
    @abc.abstractmethod
    def in_segments(self) -> bool:
        """Returns whether a run in segments ends as `run` does."""

    @abc.abstractmethod
    def begin(self, run: Run, given: Given) -> UnderwayType:
        """Returns what a run begins with, before `first_step`."""

    @abc.abstractmethod
    def advance(
        self, state: UnderwayType, first: Number, last: Number, run: Run, given: Given
    ) -> UnderwayType:
        """Returns the state after the steps from `first` to before `last`."""


def _with_eps(value: object, eps: float) -> object:
    if isinstance(value, ThreatModel):
        return dataclasses.replace(value, eps=eps)
    if isinstance(value, BoundedAttack):
        return value.with_eps(eps)
    return tuple(_with_eps(part, eps) for part in value) if isinstance(value, tuple) else value


@dataclasses.dataclass(frozen=True)
class LossAttack(BoundedAttack):
    """An attack that raises a loss.

    Attributes:
        loss: what is raised (of a targeted attack: lowered). "kl" is the divergence of the
            prediction from that of the clean image, which needs no label (TRADES' inner attack).
        targeted: the labels are classes to reach, not to leave.
    """

    random_start = False  # a field of the attacks that have a choice

    loss: Literal["cross_entropy", "dlr", "margin", "probability_margin", "kl"] = "cross_entropy"
    targeted: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown loss, or one that has no target."""
        super().__post_init__()
        if self.loss != "kl":
            losses.named(self.loss)
        elif self.targeted:
            raise ValueError("Expected loss='kl' with targeted=False: it sees no label.")
        elif not self.random_start:
            raise ValueError(
                "Expected loss='kl' with random_start=True: it has no gradient at the clean image."
            )

    def loss_fn(self, view: View, images: Images, *, key: KeyArray) -> losses.Loss:
        """Returns the loss to raise around these clean images."""
        if self.loss == "kl":
            clean = view(images, key=rng.stream(key, "clean"))
            return losses.kl(losses.decision(clean))
        loss_fn = losses.named(self.loss)
        return losses.negated(loss_fn) if self.targeted else loss_fn

    def succeeded(self, logits: Float[Array, "b c"], labels: Labels) -> Bool[Array, " b"]:
        """Returns where the attack has reached its goal."""
        return losses.misclassified(logits, labels) != self.targeted


@dataclasses.dataclass(frozen=True)
class FixedSteps(LossAttack):
    """An attack that raises a loss by steps of one length.

    Attributes:
        reach: how far all steps lead together, as a multiple of eps, where their length is left
            open.
        num_steps: number of steps; this and the next are fields.
        step_size: length of a step; None is reach * eps / num_steps.
    """

    reach: ClassVar[float] = 1.0
    # Without annotations, so that subclasses may make them fields.
    num_steps = 10
    step_size = None

    @property
    def leaves(self) -> tuple[str, ...]:
        """Returns the step size as it is given, and the length of a step."""
        return (*super().leaves, "step_size", "length")

    @functools.cached_property
    def length(self) -> float:
        """Returns the length of a step."""
        if self.step_size is not None:
            return self.step_size
        return self.reach * self.threat.eps / self.num_steps


def start_keys(key: KeyArray, index: Index, *counters: Number) -> Key[Array, " b"]:
    """Returns each example's key for the starting point of a run."""
    return rng.per_example(rng.stream(key, "start", *counters), index)
