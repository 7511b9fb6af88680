"""The attacks of LPD's paper, and honest ones.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023, table 4 and figure 3; sizes from PDD's code: BIM and PGD take 10 steps of eps / 10, PGD
from a random start; attacks move away from the label that the model itself predicts; JSMA moves
towards a random class; C&W searches the constant from .1, and is not bounded.

    python evaluate.py --checkpoint runs/lpd_cifar10 --config configs/eval/lpd.py:table4_cifar10
    python evaluate.py --checkpoint runs/lpd_cifar100 --config configs/eval/lpd.py:table5 \
        --sources oblivious runs/A adaptive runs/B

* table4_cifar10 (default), table4_tiny_imagenet: white box;
* figure3: PGD over eps in both norms;
* table5: PGD and JSMA of two other ensembles, one plain (type I) and one with the same defence
  (type II);
* converged: PGD with 100 steps and 5 restarts, three losses, on logits as they are;
* honest: the paper's PGD beside AutoAttack, PGD-100 on logits divided by their own gap (LPD's large
  logits starve ten steps of gradient, see `lpd_cifar10.py`), and MORA on the members.

The paper counts only images that were right before the attack: `given_clean_correct` of
summary.json.
"""

import dataclasses

from robust_jax.attacks import (
    BIM,
    FGSM,
    JSMA,
    MORA,
    PGD,
    AutoAttack,
    CarliniWagner,
    Rescaled,
    ThreatModel,
)
from robust_jax.protocol import AttackRun, Evaluation


def pgd(eps: float, norm: str = "linf") -> PGD:
    """Returns the paper's PGD."""
    threat = ThreatModel("l2" if norm == "l2" else "linf", eps=eps)
    return PGD(threat, num_steps=10, step_size=eps / 10, keep="last")


def jsma(gamma: float) -> JSMA:
    """Returns the paper's JSMA, towards a random class."""
    return JSMA(theta=0.1, gamma=gamma, targeted=True)


def table4(fgsm: tuple[float, float], iterative: tuple[float, float]) -> Evaluation:
    """Returns table 4."""
    attacks = {}
    for eps in fgsm:
        attacks[f"fgsm_{eps}"] = FGSM(ThreatModel("linf", eps=eps))
    for eps in iterative:
        bim = BIM(ThreatModel("linf", eps=eps), num_steps=10, step_size=eps / 10)
        attacks |= {f"bim_{eps}": bim, f"pgd_{eps}": pgd(eps)}
    attacks |= {f"jsma_{gamma}": jsma(gamma) for gamma in (0.05, 0.1)}
    attacks["cw_0.1"] = CarliniWagner(
        num_searches=5, num_steps=1000, initial_constant=0.1, confidence=0.01
    )
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


def table5() -> Evaluation:
    """Returns the black-box attacks of types I and II."""
    attacks = {"pgd_0.02": pgd(0.02), "pgd_0.04": pgd(0.04), "jsma_0.1": jsma(0.1)}
    runs = {
        f"{name}_{source}": AttackRun(attack, source=source)
        for source in ("oblivious", "adaptive")
        for name, attack in attacks.items()
    }
    return Evaluation(attacks=runs, attack_labels="predicted", num_examples=1000)


def honest() -> Evaluation:
    """Returns the paper's PGD beside attacks that saturated logits cannot starve."""
    attacks = {}
    for eps in (0.005, 0.02, 0.04):
        threat = ThreatModel("linf", eps=eps)
        long = PGD(threat, num_steps=100, num_restarts=5, loss="margin")
        adaptive = {
            f"autoattack_{eps}": AttackRun(AutoAttack(threat)),
            f"rescaled_pgd100_{eps}": AttackRun(Rescaled(threat, long)),
            f"mora_{eps}": AttackRun(MORA(threat), view="members"),
        }
        attacks[f"pgd_{eps}"] = AttackRun(pgd(eps))
        attacks |= {name: dataclasses.replace(run, adaptive=True) for name, run in adaptive.items()}
    return Evaluation(attacks=attacks, attack_labels="predicted", num_examples=1000)


VARIANTS = {
    "default": table4((0.02, 0.04), (0.02, 0.04)),
    "table4_cifar10": table4((0.02, 0.04), (0.02, 0.04)),
    "table4_tiny_imagenet": table4((0.02, 0.04), (0.01, 0.02)),
    "figure3": figure3(),
    "table5": table5(),
    "converged": converged(),
    "honest": honest(),
}


def get_config(variant: str = "default") -> Evaluation:
    """Returns the evaluation of a table or figure."""
    return VARIANTS[variant]
