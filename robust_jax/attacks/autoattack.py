"""AutoAttack: which attacks it is made of, in which order."""

import dataclasses
from typing import ClassVar, Literal, get_args

from robust_jax.attacks import checks
from robust_jax.attacks.apgd import APGD, APGDT
from robust_jax.attacks.bounded import BoundedAttack
from robust_jax.attacks.fab import FAB, FABT
from robust_jax.attacks.square import Square
from robust_jax.attacks.suite import SuiteAttack, check_classes, check_members, suited
from robust_jax.attacks.threat import Norm, ThreatModel
from robust_jax.attacks.views import eot
from robust_jax.checks import one_of
from robust_jax.types import View


def standard(threat: ThreatModel) -> tuple[BoundedAttack, ...]:
    """Returns AutoAttack's four attacks: APGD-CE, APGD-T, FAB-T and Square.

    In L1 five restarts of APGD-CE, and five classes for APGD-T.
    """
    if threat.norm == "l1":
        targeted = APGDT(threat, num_targets=5)
        return APGD(threat, num_restarts=5), targeted, FABT(threat), Square(threat)
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


@dataclasses.dataclass(frozen=True)
class AutoAttack(SuiteAttack):
    """The suite of Croce and Hein, with the official code's hyper-parameters.

    In L1 that is said of "standard"; "plus" and "rand" take the same APGD-L1 there, of three radii.

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
        threat: the ball, of all attacks.
        version: "standard", "plus", "rand", or "custom" for the attacks below.
        attacks: the attacks of version "custom", in their order, with this threat model.
        batch_size: largest number of examples at a time; the rest of a batch is padded to the
            next multiple of a quarter of it.
        num_samples: draws per gradient in version "rand".
        parallel_draws: these draws at once, at so many times the memory.

    Raises:
        ValueError: attacks, version and batch size do not fit together, or (at a call) arrays are
            being traced.

    Example:
        >>> from robust_jax.attacks import AutoAttack, ThreatModel
        >>> attack = AutoAttack(ThreatModel("linf", eps=8 / 255), version="standard")
        >>> [(type(one).__name__, one.num_targets) for one in attack.members(num_classes=10)]
        [('APGD', 0), ('APGDT', 9), ('FABT', 9), ('Square', 0)]
        >>> random = AutoAttack(ThreatModel("linf", eps=8 / 255), version="rand", num_samples=20)
        >>> [one.loss for one in random.members(num_classes=10)]
        ['cross_entropy', 'dlr']

    References:
        Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", 2020.
    """

    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)  # its attacks say which

    version: Literal["standard", "plus", "rand", "custom"] = "standard"
    attacks: tuple[BoundedAttack, ...] = ()
    batch_size: int = 128
    num_samples: int = 20
    parallel_draws: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where attacks, version and batch size do not fit together."""
        super().__post_init__()
        one_of(self, "version", ("standard", "plus", "rand", "custom"))
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
        check_members(self.members(), self.threat)
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
            check_classes(self.attacks, num_classes)
            return self.attacks
        members = {"standard": standard, "plus": plus, "rand": rand}[self.version](self.threat)
        return members if num_classes is None else tuple(suited(a, num_classes) for a in members)

    @property
    def for_random(self) -> bool:
        """Returns whether the version is for random models."""
        return self.version == "rand"

    def attacked(self, view: View) -> View:
        """Returns the view that the attacks see."""
        if self.version != "rand":
            return view
        return eot(view, self.num_samples, average="gradients", parallel=self.parallel_draws)
