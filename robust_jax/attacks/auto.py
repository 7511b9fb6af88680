"""AutoAttack: attacks one after the other, each on the examples that still stand.

The suite runs on the host over compiled runs of a few fixed batch sizes, so fallen examples cost
nothing and nothing is compiled per batch.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import checks, losses
from robust_jax.attacks.apgd import APGD, APGDT
from robust_jax.attacks.base import BoundedAttack, KeyArray
from robust_jax.attacks.dataset import Batches
from robust_jax.attacks.fab import FAB, FABT
from robust_jax.attacks.runs import AttackInRuns, TargetsInTurn
from robust_jax.attacks.square import Square
from robust_jax.attacks.threat import ThreatModel, l2_norm, unit_l2, without_nan
from robust_jax.attacks.views import eot
from robust_jax.runtime.live import compiled, held
from robust_jax.types import View


class Stage(NamedTuple):
    """What one attack of a suite did.

    Attributes:
        attack: its configuration.
        num_standing: examples still right after it.
        seconds: wall time, compilation included.
    """

    attack: AttackInRuns
    num_standing: int
    seconds: float


class Report(NamedTuple):
    """What a suite found.

    Attributes:
        images: the adversarial image of each fallen example, the clean one of each other.
        standing: examples that no attack changed the decision on.
        fallen_to: number of the attack that each example fell to; -1 where it stands, and -2
            where the clean image is misclassified.
        stages: one per attack that ran.
        warnings: why the result may overstate robustness, in words.
    """

    images: np.ndarray
    standing: np.ndarray
    fallen_to: np.ndarray
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...]


def standard(threat: ThreatModel) -> tuple[AttackInRuns, ...]:
    """Returns AutoAttack's four attacks: APGD-CE, APGD-T, FAB-T and Square."""
    return APGD(threat), APGDT(threat), FABT(threat), Square(threat)


def plus(threat: ThreatModel) -> tuple[AttackInRuns, ...]:
    """Returns the six attacks of version "plus", with five restarts where it has them."""
    return (
        APGD(threat, num_restarts=5),
        APGD(threat, num_restarts=5, loss="dlr"),
        FAB(threat, num_restarts=5),
        Square(threat),
        APGDT(threat),
        FABT(threat),
    )


def rand(threat: ThreatModel) -> tuple[AttackInRuns, ...]:
    """Returns the two attacks of version "rand", which is for random models."""
    return APGD(threat), APGD(threat, loss="dlr")


def suited(attack: AttackInRuns, num_classes: int) -> AttackInRuns:
    """Returns the attack with as many targets as there are, the margin where DLR is not defined.

    The DLR loss takes three classes, four with a target. A run towards the only other class, or
    the better of two, is one that raises the margin.
    """
    if isinstance(attack, APGDT) and num_classes < 4:
        return APGD(
            attack.threat,
            loss="margin",
            num_restarts=attack.num_restarts,
            num_steps=attack.num_steps,
            rho=attack.rho,
        )
    if isinstance(attack, TargetsInTurn):
        return dataclasses.replace(attack, num_targets=min(attack.num_targets, num_classes - 1))
    if getattr(attack, "loss", None) == "dlr" and num_classes < 3:
        return dataclasses.replace(attack, loss="margin")
    return attack


@dataclasses.dataclass(frozen=True)
class AutoAttack(BoundedAttack):
    """The suite of Croce and Hein, with the official code's hyper-parameters.

    A call gives the images alone; `report` gives also who fell to what, times and warnings. Both
    run on the host: they cannot be traced by `jit`. Examples that are misclassified as they are
    have fallen, and are given back unchanged.

    "rand" attacks gradients averaged over `num_samples` draws of the view. Unlike the official
    code it decides by the mean probability of the draws, not by the last one, and re-judges every
    success under fresh draws, so that lucky draws are not kept.

    Checked against the official code on 512 images: each of the attacks alone, APGD-CE, APGD-DLR,
    APGD-T, FAB-T and Square, and the beginning of the suite, which bounds what the whole leaves
    from above (`benchmarks/autoattack_parity.py`).

    Of few classes the attacks make min(9, c - 1) targeted runs, and below four (untargeted: three)
    the margin stands for the DLR loss, which such a view does not have.

    Attributes:
        version: "standard", "plus", "rand", or "custom" for the attacks below.
        attacks: the attacks of version "custom", in their order, with this threat model.
        batch_size: largest number of examples at a time; the rest of a batch is padded to the
            next multiple of a quarter of it.
        num_samples: draws per gradient in version "rand".
        parallel_draws: these draws at once, at so many times the memory.

    References:
        Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", 2020.
    """

    on_host: ClassVar[bool] = True

    version: Literal["standard", "plus", "rand", "custom"] = "standard"
    attacks: tuple[AttackInRuns, ...] = ()
    batch_size: int = 128
    num_samples: int = 20
    parallel_draws: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where attacks, version and batch size do not fit together."""
        super().__post_init__()
        checks.check_choice(self, "version", ("standard", "plus", "rand", "custom"))
        if bool(self.attacks) != (self.version == "custom"):
            raise ValueError(
                f"Expected {len(self.attacks)} attacks to be given with version='custom' and "
                f"only then, not {self.version!r}."
            )
        if self.parallel_draws and self.version != "rand":
            raise ValueError(
                f"Expected parallel_draws=True to be False with version={self.version!r}, which "
                "draws nothing."
            )
        for attack in self.attacks:
            if not isinstance(attack, AttackInRuns):
                raise ValueError(f"Expected attack={attack} to be made of runs.")
            if attack.parallel:
                raise ValueError(
                    f"Expected attack={attack} not to be parallel: the suite makes one run at a "
                    "time, on the examples that still stand."
                )
            if attack.threat != self.threat:
                raise ValueError(f"Expected threat={attack.threat!r} to be {self.threat!r}.")
            if attack.targeted:
                raise ValueError(f"Expected attack={attack} not to be targeted: the suite is not.")
        checks.check_counts(self, "batch_size", "num_samples")

    def reduced(self) -> "AutoAttack":
        """Returns the attack at the small budget of a trial."""
        if self.version == "rand":
            return self.at_most(num_samples=4)
        members = tuple(attack.reduced() for attack in self.members())
        return dataclasses.replace(self, version="custom", attacks=members)

    def members(self, num_classes: int | None = None) -> tuple[AttackInRuns, ...]:
        """Returns the attacks in their order.

        Args:
            num_classes: of the view; None for as many as the attacks ask for.

        Raises:
            ValueError: an attack of version "custom" asks for more classes.
        """
        if self.version == "custom":
            for attack in self.attacks:
                if num_classes is not None and suited(attack, num_classes) != attack:
                    raise ValueError(f"Expected num_classes={num_classes} to suffice for {attack}.")
            return self.attacks
        members = {"standard": standard, "plus": plus, "rand": rand}[self.version](self.threat)
        return members if num_classes is None else tuple(suited(a, num_classes) for a in members)

    def __call__(
        self, view: View, images: Any, labels: Any, *, key: Key[Array, ""], index: Any = None
    ) -> Any:
        """Returns the adversarial images; see `Attack`."""
        return jnp.asarray(self.report(view, images, labels, key=key, index=index).images)

    def perturb(self, view: View, images: Any, labels: Any, *, key: KeyArray, index: Any) -> Any:
        """Returns what a call gives: a suite prepares its own batches."""
        return self(view, images, labels, key=key, index=index)

    def dry_run(
        self, view: View, images: Any, labels: Any, *, key: Key[Array, ""], index: Any = None
    ) -> Any:
        """Returns images of the same shape, every attack traced on them; see `Attack`."""
        shape = jax.eval_shape(lambda images: view(images, key=key), images).shape
        members = self.members(shape[-1])
        if self.version == "rand":
            view = eot(view, self.num_samples, average="gradients", parallel=self.parallel_draws)
        for attack in members:
            images = attack(view, images, labels, key=key, index=index)
        return images

    def report(
        self,
        view: View,
        images: Any,
        labels: Any,
        *,
        key: Key[Array, ""],
        index: Any = None,
        progress_fn: Callable[[str], None] | None = None,
    ) -> Report:
        """Returns the adversarial images, what stands, and how it came to that.

        Args:
            view: the model under attack.
            images: clean images; where they are split over devices, so is every batch.
            labels: class of each image.
            key: root of all draws.
            index: dataset row of each image; default 0, 1, ...
            progress_fn: called with one line after every batch.

        Raises:
            ValueError: shapes, dtypes or values do not fit, the arrays are being traced, or the
                images lie on the devices of several hosts.
        """
        if isinstance(images, Tracer) or isinstance(labels, Tracer):
            raise ValueError(
                f"Expected images={images} to be concrete: {type(self).__name__} runs on the host."
            )
        index = np.arange(len(labels)) if index is None else index
        batches = Batches(self.batch_size, images, labels, index, quarters=True)
        images, labels = batches.images, batches.labels
        batches.labels = labels.astype(np.int32)
        self.check(images)
        for attack in self.members():
            attack.check(images)
        if not len(images):
            empty = np.zeros(0, bool)
            return Report(images, empty, np.zeros(0, np.int32), (), ())
        checks.check_images(images, self.box)
        view = held(view)
        check_key = rng.stream(key, "check")
        num_classes = checks.check_logits(view, images[:8], labels, key=check_key)
        members = self.members(num_classes)
        if self.version == "rand":
            view = eot(view, self.num_samples, average="gradients", parallel=self.parallel_draws)
        return self._report(members, view, batches, key, progress_fn or (lambda line: None))

    def _report(
        self,
        members: tuple[AttackInRuns, ...],
        view: View,
        batches: Batches,
        key: Any,
        progress_fn: Any,
    ) -> Report:
        images, standing = np.array(batches.images), np.zeros(len(batches.labels), bool)
        fallen_to = np.full(len(standing), -2, np.int32)
        random, flat = False, 0
        everything = np.arange(len(standing))
        for rows, batch in batches.of(everything):
            right, differs, zero, logits = _inspect(view, *batch, rng.stream(key, "inspect"))
            checks.check_finite(np.asarray(logits)[: len(rows)], batches.index[rows])
            standing[rows] = np.asarray(right)[: len(rows)]
            random |= bool(np.any(np.asarray(differs)[: len(rows)]))
            flat += int(np.sum(np.asarray(zero)[: len(rows)]))
        fallen_to[standing] = -1
        stages = []
        for number, attack in enumerate(members):
            began = time.perf_counter()
            attack_key = rng.stream(key, "attack", number)
            for run in range(attack.num_runs):
                for rows, batch in batches.of(np.flatnonzero(standing)):
                    found, fallen = _one_run(attack, jnp.asarray(run), view, *batch, attack_key)
                    fallen = np.asarray(fallen)[: len(rows)]
                    images[rows[fallen]] = np.asarray(found)[: len(rows)][fallen]
                    standing[rows[fallen]] = False
                    fallen_to[rows[fallen]] = number
                    progress_fn(
                        f"{type(attack).__name__} {number + 1}/{len(members)}, run {run + 1}"
                        f"/{attack.num_runs}: {standing.sum()} of {len(standing)} standing"
                    )
            stages.append(Stage(attack, int(standing.sum()), time.perf_counter() - began))
        warnings = self._warnings(stages, random=random, num_flat=flat, num_examples=len(standing))
        return Report(images, standing, fallen_to, tuple(stages), warnings)

    def _warnings(self, stages, *, random, num_flat, num_examples) -> tuple[str, ...]:
        found = []
        if random and self.version != "rand":
            found.append("randomized: the view's scores change from call to call; use 'rand'.")
        if num_flat:
            found.append(
                f"zero gradient: the margin has none at {num_flat} of {num_examples} images; "
                "rescale the logits or use float64."
            )
        for before, after in itertools.pairwise(stages):
            won = before.num_standing - after.num_standing
            if isinstance(after.attack, Square) and won > 0.002 * num_examples:
                found.append(
                    f"Square fooled {won} images that the attacks before it could not: gradients "
                    "may be masked; add queries, restarts or an adaptive attack."
                )
        return tuple(found)


@functools.partial(compiled, static_argnames=("attack",))
def _one_run(attack, number, view, images, labels, index, key):
    """Returns the images of one run, and which are in the ball and misclassified."""
    points, _, _ = attack.run(number, view, images, labels, key=key, index=index)
    points = attack.threat.project(without_nan(points, images), images)
    logits = losses.decision(view(points, key=rng.stream(key, "judge", number)))
    return points, losses.misclassified(logits, labels)


@compiled
def _inspect(
    view: View,
    images: Float[Array, "b *shape"],
    labels: Int[Array, " b"],
    index: Int[Array, " b"],
    key: Key[Array, ""],
) -> tuple[Bool[Array, " b"], Bool[Array, " b"], Bool[Array, " b"], Float[Array, "b c"]]:
    """Returns where clean images are right, scores differ from call to call, gradients vanish.

    And the logits themselves.
    """
    del index
    slope, _, logits = losses.gradient(
        losses.margin, view, images, labels, key=rng.stream(key, "call", 0)
    )
    again = losses.decision(view(images, key=rng.stream(key, "call", 1)))
    apart = l2_norm(unit_l2(logits) - unit_l2(again))
    right = ~losses.misclassified(logits, labels)
    return right, apart > 1e-4, l2_norm(slope) == 0, logits
