"""How networks trained by interval bound propagation are judged: attacked, and certified."""

from robust_jax.attacks import APGD, PGD, AutoAttack, ThreatModel
from robust_jax.certify import Margins
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Selection


def evaluation(
    eps: float, *, autoattack: bool = True, num_examples: int | None = None
) -> Evaluation:
    """Returns attacks and certificates in one Linf ball, of the same images.

    What is certified stands against every attack: certified accuracy is at most the worst case of
    the attacks.

    Args:
        eps: radius, in pixel units.
        autoattack: AutoAttack; else its first attack, and the same by the margin, in a tenth of
            the passes.
        num_examples: first test images; None for all.
    """
    threat = ThreatModel("linf", eps)
    attacks = {"pgd": PGD(threat, num_steps=40, step_size=eps / 10)}
    if autoattack:
        attacks |= {"autoattack": AutoAttack(threat)}
    else:
        attacks |= {"apgd": APGD(threat), "apgd_margin": APGD(threat, loss="margin")}
    return Evaluation(
        attacks={name: AttackRun(attack) for name, attack in attacks.items()},
        certificates={
            "intervals": Margins(eps, bound="interval_elided"),
            "intervals, logit by logit": Margins(eps, bound="interval"),
            "CROWN": Margins(eps),
        },
        selection=Selection(num_examples=num_examples),
        num_certified=None,
    )
