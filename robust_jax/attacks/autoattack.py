"""AutoAttack: which attacks it is made of, in which order."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array
from numpy.typing import ArrayLike

from robust_jax import rng
from robust_jax.attacks import checks
from robust_jax.attacks.apgd import APGD, APGDT
from robust_jax.attacks.bounded import BoundedAttack
from robust_jax.attacks.dataset import Batches
from robust_jax.attacks.fab import FAB, FABT
from robust_jax.attacks.passes import Passes
from robust_jax.attacks.runs import Found, Given, Run
from robust_jax.attacks.square import Square
from robust_jax.attacks.suites import Report, run_suite
from robust_jax.attacks.threat import ThreatModel
from robust_jax.attacks.views import eot
from robust_jax.runtime.live import held
from robust_jax.types import KeyArray, View


def standard(threat: ThreatModel) -> tuple[BoundedAttack, ...]:
    """Returns AutoAttack's four attacks: APGD-CE, APGD-T, FAB-T and Square."""
    return APGD(threat), APGDT(threat), FABT(threat), Square(threat)


def plus(threat: ThreatModel) -> tuple[BoundedAttack, ...]:
    """Returns the six attacks of version "plus", with five restarts where it has them."""
    return (
        APGD(threat, num_restarts=5),
        APGD(threat, num_restarts=5, loss="dlr"),
        FAB(threat, num_restarts=5),
        Square(threat),
        APGDT(threat),
        FABT(threat),
    )


def rand(threat: ThreatModel) -> tuple[BoundedAttack, ...]:
    """Returns the two attacks of version "rand", which is for random models."""
    return APGD(threat), APGD(threat, loss="dlr")


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
    attacks: tuple[BoundedAttack, ...] = ()
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
            if not isinstance(attack, BoundedAttack) or attack.on_host:
                raise ValueError(f"Expected attack={attack} to be a bounded one made of runs.")
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

    def members(self, num_classes: int | None = None) -> tuple[BoundedAttack, ...]:
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
    ) -> tuple[Array, Passes]:
        """Returns the adversarial images and each one's passes; see `Attack`."""
        if starts is not None:
            raise ValueError("Expected starts to be None: AutoAttack begins at the images.")
        report = self.report(view, images, labels, key=key, index=index)
        return jnp.asarray(report.images), report.passes

    def run(self, run: Run, given: Given) -> Found:
        """Returns what a call gives: a suite plans the runs of its attacks itself."""
        view, images, labels, key, index, _ = given
        report = self.report(view, images, labels, key=key, index=index)
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
    ) -> Array:
        """Returns images of the same shape, every attack traced on them; see `Attack`."""
        images = jnp.asarray(images)
        num_classes = jax.eval_shape(lambda images: view(images, key=key), images).shape[-1]
        if self.version == "rand":
            view = eot(view, self.num_samples, average="gradients", parallel=self.parallel_draws)
        for attack in self.members(num_classes):
            images = attack(view, images, labels, key=key, index=index)
        return images

    def report(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
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
        view = held(view)
        check_key = rng.stream(key, "check")
        num_classes = checks.check_logits(view, images[:8], labels, key=check_key)
        members = self.members(num_classes)
        if self.version == "rand":
            view = eot(view, self.num_samples, average="gradients", parallel=self.parallel_draws)
        return run_suite(
            members,
            view,
            batches,
            key=key,
            for_random=self.version == "rand",
            progress_fn=progress_fn or (lambda line: None),
        )
