"""Suites as attacks: what they share, and one of any attacks."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool
from numpy.typing import ArrayLike

from robust_jax import rng
from robust_jax.attacks import checks
from robust_jax.attacks.apgd import APGD
from robust_jax.attacks.base import Attack
from robust_jax.attacks.bounded import BoundedAttack
from robust_jax.attacks.dataset import Batches
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.passes import Passes
from robust_jax.attacks.runs import Found, Given, Run
from robust_jax.attacks.suites import Report, run_suite
from robust_jax.attacks.threat import Norm, ThreatModel
from robust_jax.runtime.live import held
from robust_jax.types import KeyArray, View


def suited(attack: BoundedAttack, num_classes: int) -> BoundedAttack:
    """Returns the attack with as many targets as there are, the margin where DLR is not defined.

    The DLR loss takes three classes, four with a target. A run towards the only other class, or
    the better of two, is one that raises the margin.
    """
    is_apgd = isinstance(attack, APGD)
    if is_apgd and attack.loss == "dlr" and attack.num_targets and num_classes < 4:
        return APGD(
            attack.threat,
            loss="margin",
            num_restarts=attack.num_restarts,
            num_steps=attack.num_steps,
            rho=attack.rho,
        )
    if attack.num_targets:
        return dataclasses.replace(attack, num_targets=min(attack.num_targets, num_classes - 1))
    if getattr(attack, "loss", None) == "dlr" and num_classes < 3:
        return dataclasses.replace(attack, loss="margin")
    return attack


def check_classes(attacks: Sequence[BoundedAttack], num_classes: int | None) -> None:
    """Raises ValueError where an attack asks for more classes; None is as many as it asks for."""
    for attack in attacks:
        if num_classes is not None and suited(attack, num_classes) != attack:
            raise ValueError(f"Expected num_classes={num_classes} to suffice for {attack}.")


def check_members(attacks: Sequence[BoundedAttack], threat: ThreatModel) -> None:
    """Raises ValueError where an attack cannot be a part of a suite in this ball."""
    for attack in attacks:
        if not isinstance(attack, BoundedAttack) or attack.on_host:
            raise ValueError(f"Expected attack={attack} to be a bounded one made of runs.")
        if attack.parallel:
            raise ValueError(
                f"Expected attack={attack} not to be parallel: the suite makes one run at a "
                "time, on the examples that still stand."
            )
        if attack.threat != threat:
            raise ValueError(f"Expected threat={attack.threat!r} to be {threat!r}.")
        if attack.targeted:
            raise ValueError(f"Expected attack={attack} not to be targeted: the suite is not.")


@dataclasses.dataclass(frozen=True)
class SuiteAttack(BoundedAttack):
    """Attacks one after the other, run by run, each on the images that still stand.

    It runs on the host: it cannot be traced by `jit`. A call gives the images alone; `report` also
    who fell to what, passes, times and warnings.

    Attributes:
        batch_size: largest number of examples at a time, of those that have a choice; the rest
            of a batch is padded to the next multiple of a quarter of it.
        drop_every: steps of APGD (in Linf and L2) and PGD after which images are left out that have
            fallen, or on which PGD goes in circles of so many steps at most; None for the end of a
            run, as after every other attack.
        for_random: is it made for random models? Else one is warned of.
    """

    on_host: ClassVar[bool] = True
    # Without annotations, so that subclasses may make them fields.
    batch_size = 128
    drop_every = None
    for_random = False

    @abc.abstractmethod
    def members(self, num_classes: int | None = None) -> tuple[BoundedAttack, ...]:
        """Returns the attacks in their order.

        Args:
            num_classes: of the view; None for as many as the attacks ask for.
        """

    def attacked(self, view: View) -> View:
        """Returns the view that the attacks see."""
        return view

    def __call__(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
        starts: ArrayLike | None = None,
    ) -> Array:
        """Returns the adversarial images; see `Attack`."""
        return self.counted(view, images, labels, key=key, index=index, starts=starts)[0]

    def counted(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
        starts: ArrayLike | None = None,
        spare_wrong: bool = True,
    ) -> tuple[Array, Passes]:
        """Returns the adversarial images and each one's passes; see `Attack` and `report`."""
        report = self.report(
            view, images, labels, key=key, index=index, starts=starts, spare_wrong=spare_wrong
        )
        return jnp.asarray(report.images), report.passes

    def run(self, run: Run, given: Given) -> Found:
        """Returns what a call gives: a suite plans the runs of its attacks itself."""
        view, images, labels, key, index, starts = given
        report = self.report(view, images, labels, key=key, index=index, starts=starts)
        fallen = jnp.asarray(~report.standing)
        return Found(jnp.asarray(report.images), fallen, fallen.astype(images.dtype))

    def dry_run(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
        starts: ArrayLike | None = None,
    ) -> Array:
        """Returns images of the same shape, every attack traced on them; see `Attack`."""
        images = jnp.asarray(images)
        num_classes = jax.eval_shape(lambda images: view(images, key=key), images).shape[-1]
        view = self.attacked(view)
        for attack in self.members(num_classes):
            begin_at = starts if attack.takes_starts else None
            images = attack(view, images, labels, key=key, index=index, starts=begin_at)
        return images

    def report(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
        starts: ArrayLike | None = None,
        spare_wrong: bool = True,
        progress_fn: Callable[[str], None] | None = None,
    ) -> Report:
        """Returns the adversarial images, what stands, and how it came to that.

        Args:
            view: the model under attack.
            images: clean images; where they are split over devices, so is every batch.
            labels: class of each image.
            key: root of all draws.
            index: dataset row of each image; default 0, 1, ...
            starts: images for the attacks that begin at other ones, see `Attack`.
            spare_wrong: give clean images back as they are that the view has wrong? Not where
                something else decides: a vote over members, draws of its own, another model.
            progress_fn: called with one line after every batch.

        Raises:
            ValueError: shapes, dtypes or values do not fit, the arrays are being traced, or the
                images lie on the devices of several hosts.
        """
        if isinstance(images, Tracer) or isinstance(labels, Tracer):
            raise ValueError(
                f"Expected images={images} to be concrete: {type(self).__name__} runs on the host."
            )
        index = np.arange(np.shape(labels)[0]) if index is None else index
        batches = Batches(self.batch_size, images, labels, index, quarters=True)
        images, labels = batches.images, batches.labels
        batches.labels = labels.astype(np.int32)
        self.check(images)
        for attack in self.members():
            attack.check(images)
        if not len(images):
            empty = np.zeros(0, bool)
            none = np.zeros(0, np.int64)
            return Report(images, empty, np.zeros(0, np.int32), (), (), Passes(none, none))
        checks.check_images(images, self.box)
        if starts is not None:
            if not self.takes_starts:
                raise ValueError(
                    f"Expected starts to be None: all attacks of this {type(self).__name__} begin "
                    "at the images themselves."
                )
            starts = jnp.asarray(starts)
            checks.check_starts(starts, images)
            checks.check_images(starts, self.box, "starts")
        view = held(view)
        check_key = rng.stream(key, "check")
        num_classes = checks.check_logits(
            view, images[:8], labels, key=check_key, allow_probabilities=not self.needs_logits
        )
        members = self.members(num_classes)
        view = self.attacked(view)
        return run_suite(
            members,
            view,
            batches,
            key=key,
            for_random=self.for_random,
            progress_fn=progress_fn or (lambda line: None),
            drop_every=self.drop_every,
            starts=starts,
            spare_wrong=spare_wrong,
        )


@dataclasses.dataclass(frozen=True)
class Suite(SuiteAttack):
    """Attacks of all kinds, one after the other, each on the images that still stand.

    Attributes:
        threat: the ball, of all attacks.
        attacks: bounded ones with this threat model, and minimum-norm and decision attacks, of
            which counts what they find inside the ball.
        batch_size: largest number of examples at a time.
        drop_every: steps of APGD (in Linf and L2) and PGD (with keep="best" and no
            `min_probability`) after which images are left out that have fallen; of PGD on a view
            that gave the same scores of clean images twice also those on which it has come back to
            where these steps began: from there it only repeats itself. None for the end of a run.
            All other attacks finish their run. Of a random model a success is judged again after
            each such part: what stands is then a lower bound.

    Raises:
        ValueError: there is no attack, one that does not fit the ball, or (at a call) arrays are
            being traced.

    Example:
        >>> from robust_jax.attacks import FGSM, DeepFool, Suite, ThreatModel, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5], [0.9, 0.5]]), jnp.asarray([0, 0])
        >>> threat = ThreatModel("linf", eps=0.1)
        >>> suite = Suite(threat, attacks=(FGSM(threat), DeepFool(num_steps=5)))
        >>> report = suite.report(view, images, labels, key=jax.random.key(0))
        >>> report.standing.tolist(), report.fallen_to.tolist()  # attack 0, and none
        ([False, True], [0, -1])
    """

    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)  # its attacks say which

    attacks: tuple[Attack, ...] = ()
    batch_size: int = 128
    drop_every: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where there is no attack, or one that does not fit the ball."""
        super().__post_init__()
        if not self.attacks:
            raise ValueError("Expected attacks=() to hold one at least.")
        check_members(self.members(), self.threat)
        checks.check_counts(self, "batch_size")
        if self.drop_every is not None:
            checks.check_counts(self, "drop_every")

    @property
    def needs_logits(self) -> bool:  # type: ignore[override]
        """Returns whether one of its attacks does."""
        return any(attack.needs_logits for attack in self.attacks)

    @property
    def takes_starts(self) -> bool:  # type: ignore[override]
        """Returns whether one of its attacks begins at other images."""
        return any(attack.takes_starts for attack in self.attacks)

    def has_start(self, given: Given) -> Bool[Array, " b"]:
        """Returns which images one of the attacks has a start for."""
        found = jnp.zeros(given.labels.shape, bool)
        for number, attack in enumerate(self.attacks):
            key = rng.stream(given.key, "attack", number)
            starts = given.starts if attack.takes_starts else None
            found |= attack.has_start(given._replace(key=key, starts=starts))
        return found

    def reduced(self) -> "Suite":
        """Returns the same of the attacks at the small budget of a trial."""
        attacks = tuple(attack.reduced() for attack in self.attacks)
        return dataclasses.replace(self, attacks=attacks)

    def members(self, num_classes: int | None = None) -> tuple[BoundedAttack, ...]:
        """Returns the attacks in their order, minimum-norm ones held to the ball.

        Raises:
            ValueError: an attack asks for more classes, or cannot be held to a ball.
        """
        members = []
        for attack in self.attacks:
            if isinstance(attack, MinimumNormAttack):
                members.append(attack.within(self.threat.eps, norm=self.threat.norm))
            elif isinstance(attack, BoundedAttack):
                members.append(attack)
            else:
                raise ValueError(f"Expected attack={attack} to be bounded or of minimum norm.")
        check_classes(members, num_classes)
        return tuple(members)
