"""A suite of few passes for AutoAttack's verdict."""

import dataclasses

from robust_jax.attacks import checks
from robust_jax.attacks.apgd import APGD, APGDT
from robust_jax.attacks.bounded import BoundedAttack
from robust_jax.attacks.suite import SuiteAttack, suited


@dataclasses.dataclass(frozen=True)
class FrugalAttack(SuiteAttack):
    """Targeted APGD in MALT's order: AutoAttack's verdict for a fraction of its passes.

    One run of APGD on the probability margin fells the easy images. What stands is attacked
    towards its nearest classes, then by a long run on the cross-entropy and by long ones towards
    the nearest classes. An image that has fallen costs at most `drop_every` steps more. It has no
    attack without gradients: where those are masked AutoAttack's Square sees what this does not.

    Images that fall from few starts want long runs: two of the public ResNet-20's fell to APGD on
    the cross-entropy from all starts in 100 steps, from 7 of 10 in 50, from 2 and 4 of 10 in 30.

    Attributes:
        threat: the ball, of all attacks.
        num_steps: of each of the short runs.
        num_near: nearest classes that these are made towards.
        num_untargeted_steps: of the run on the cross-entropy; 0 leaves it out.
        num_long_steps: of the runs towards `num_targets` classes on what stands then.
        num_targets: classes of these; 0 leaves them out.
        batch_size: largest number of examples at a time.
        drop_every: steps after which images that have fallen are left out.

    Raises:
        ValueError: a count is not positive, or (at a call) arrays are being traced.

    Example:
        >>> from robust_jax.attacks import FrugalAttack, ThreatModel
        >>> attack = FrugalAttack(ThreatModel("linf", eps=8 / 255))
        >>> [(one.num_targets, one.num_steps) for one in attack.members(num_classes=10)]
        [(0, 20), (3, 20), (0, 100), (4, 100)]

    References:
        Melamed, Yehudai, Shamir, "MALT powers up adversarial attacks", arXiv 2407.02240, 2024; Xie
        et al., arXiv 2411.15210, 2024 (the loss).
    """

    num_steps: int = 20
    num_near: int = 3
    num_untargeted_steps: int = 100
    num_long_steps: int = 100
    num_targets: int = 4
    batch_size: int = 128
    drop_every: int = 10

    def __post_init__(self) -> None:
        """Raises ValueError for counts that make no sense."""
        super().__post_init__()
        names = ("num_steps", "num_near", "num_long_steps", "batch_size", "drop_every")
        checks.check_counts(self, *names)
        checks.check_nonnegative(self, "num_untargeted_steps")

    def reduced(self) -> "FrugalAttack":
        """Returns the attack without its long runs."""
        return dataclasses.replace(self, num_targets=0, num_untargeted_steps=0)

    def members(self, num_classes: int | None = None) -> tuple[BoundedAttack, ...]:
        """Returns the attacks in their order, with as many targets as there are classes."""
        threat, steps = self.threat, self.num_steps
        members = [
            APGD(threat, loss="probability_margin", num_steps=steps),
            APGDT(threat, num_targets=self.num_near, target_order="malt", num_steps=steps),
        ]
        if self.num_untargeted_steps:
            members.append(APGD(threat, num_steps=self.num_untargeted_steps))
        if self.num_targets:
            members.append(
                APGDT(
                    threat,
                    num_targets=self.num_targets,
                    target_order="malt",
                    num_steps=self.num_long_steps,
                )
            )
        if num_classes is None:
            return tuple(members)
        return tuple(suited(attack, num_classes) for attack in members)
