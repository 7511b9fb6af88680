"""The white-box attacks of PARL's paper, one variant for each eps of figure 4.

Alam et al., arXiv 2112.04948v1, 2021, section 5.1: FGSM, and BIM, MIM and PGD with 50 steps of
eps / 5; MIM's decay is .01 (the usual value is 1: see `mim_decay1`); PGD has 10 restarts (whether
its accuracy is the mean or the worst over them is not said: the worst it is here).

    python evaluate.py --checkpoint runs/parl_cifar10 --config configs/eval/parl.py:eps0.07

A majority vote has no gradient: attacks follow the mean probability and are judged by the vote. As
in CleverHans, attacks move away from the label that the model itself predicts. The paper takes
1,000 random test images, this the first 1,000. The paper's claim is about transfer from another
ensemble (its table 1 and figure 3), not about these attacks.
"""

from robust_jax.attacks import BIM, FGSM, MIM, PGD, ThreatModel
from robust_jax.protocol import AttackRun, Evaluation


def white_box(eps: float) -> Evaluation:
    """Returns figure 4 at one eps."""
    threat = ThreatModel("linf", eps=eps)
    steps = {"num_steps": 50, "step_size": eps / 5}
    attacks = {
        "fgsm": FGSM(threat),
        "bim": BIM(threat, **steps),
        "mim": MIM(threat, decay=0.01, **steps),
        "mim_decay1": MIM(threat, decay=1.0, **steps),
        "pgd": PGD(threat, num_restarts=10, **steps),
    }
    return Evaluation(
        attacks={name: AttackRun(attack) for name, attack in attacks.items()},
        num_examples=1000,
        attack_labels="predicted",
    )


VARIANTS = {f"eps{n / 100}": white_box(n / 100) for n in range(1, 8)}
VARIANTS = {"default": VARIANTS["eps0.07"]} | VARIANTS


def get_config(variant: str = "default") -> Evaluation:
    """Returns the evaluation at one eps."""
    return VARIANTS[variant]
