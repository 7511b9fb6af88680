"""The white-box attacks of LPD's paper that move every pixel.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023, table 4 and figure 3; sizes from PDD's code: BIM and PGD take 10 steps of eps / 10, PGD
from a random start; attacks move away from the label that the model itself predicts.

    python evaluate.py --checkpoint runs/lpd_cifar10 --config configs/eval/lpd.py:table4_cifar10

The paper counts only images that were right before the attack; divide by clean accuracy for its
numbers. `converged` is what to quote beside them: LPD's large logits starve ten steps of gradient
(see `lpd_cifar10.py`). JSMA and Carlini-Wagner of table 4 are not in these variants.
"""

from robust_jax.attacks import BIM, FGSM, PGD, ThreatModel
from robust_jax.protocol import AttackRun, Evaluation


def pgd(eps: float, norm: str = "linf") -> PGD:
    """Returns the paper's PGD."""
    threat = ThreatModel("l2" if norm == "l2" else "linf", eps=eps)
    return PGD(threat, num_steps=10, step_size=eps / 10, keep="last")


def table4(fgsm: tuple[float, float], iterative: tuple[float, float]) -> Evaluation:
    """Returns FGSM, BIM and PGD of table 4."""
    attacks = {}
    for eps in fgsm:
        attacks[f"fgsm_{eps}"] = FGSM(ThreatModel("linf", eps=eps))
    for eps in iterative:
        bim = BIM(ThreatModel("linf", eps=eps), num_steps=10, step_size=eps / 10)
        attacks |= {f"bim_{eps}": bim, f"pgd_{eps}": pgd(eps)}
    return Evaluation(
        attacks={name: AttackRun(attack) for name, attack in attacks.items()},
        attack_labels="predicted",
    )


def figure3() -> Evaluation:
    """Returns PGD over eps in both norms; beyond eps = .5 no image may be right but by chance."""
    linf = {f"linf_{2**n * 0.005}": pgd(2**n * 0.005) for n in range(8)} | {"linf_1.0": pgd(1.0)}
    l2 = {f"l2_{2**n * 0.1}": pgd(2**n * 0.1, "l2") for n in range(8)}
    attacks = {name: AttackRun(attack) for name, attack in (linf | l2).items()}
    return Evaluation(attacks=attacks, attack_labels="predicted", num_examples=1000)


def converged() -> Evaluation:
    """Returns PGD with 100 steps and 5 restarts, three losses, at .02 and .04."""
    attacks = {
        f"pgd100_{loss}_{eps}": PGD(
            ThreatModel("linf", eps=eps), num_steps=100, num_restarts=5, loss=loss
        )
        for eps in (0.02, 0.04)
        for loss in ("cross_entropy", "dlr", "margin")
    }
    return Evaluation(
        attacks={name: AttackRun(attack) for name, attack in attacks.items()}, num_examples=1000
    )


VARIANTS = {
    "default": table4((0.02, 0.04), (0.02, 0.04)),
    "table4_cifar10": table4((0.02, 0.04), (0.02, 0.04)),
    "table4_tiny_imagenet": table4((0.02, 0.04), (0.01, 0.02)),
    "figure3": figure3(),
    "converged": converged(),
}


def get_config(variant: str = "default") -> Evaluation:
    """Returns the evaluation of a table or figure."""
    return VARIANTS[variant]
