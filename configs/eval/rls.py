"""The attacks of the random layer sampling paper, CIFAR-10, and honest ones.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020.

    python evaluate.py --checkpoint runs/rls_cifar10 --config configs/eval/rls.py:table4

* table1 (default), table2: attacks on one frozen draw, judged by the mean of N fresh draws;
* table4: FGSM, PGD and C&W on the mean of 1, 5, 10 and 15 frozen draws;
* honest: PGD-50 at eps .01 and .02 (the paper's) and 8/255 on what is deployed (fresh draws at
  every step), on means of 10 and 50 fresh single draws, and on the pure sub-models.

eps of the paper are for pixels in [-1, 1]; names keep them, attacks have half.
"""

from recipes import rls as recipes

from robust_jax.attacks import PGD, ThreatModel
from robust_jax.protocol import AttackRun, Evaluation, Judge

RADII = {"0.01": 0.005, "0.02": 0.01, "8of255": 8 / 255}


def table4() -> Evaluation:
    """Returns table 4, by number of attacked models."""
    found = {}
    for size in (1, 5, 10, 15):
        runs = recipes.attacks("cifar10", "resnet50", view=f"frozen_{size}")
        for name in ("fgsm_0.01", "pgd10_0.01", "cw_0.01"):
            found[f"{name}_models{size}"] = runs[name]
    return Evaluation(attacks=found, judges={"paper": Judge(rule="paper")}, batch_size=128)


def honest() -> Evaluation:
    """Returns PGD-50 through the randomness, steps of 2.5 eps / 50."""
    found = {}
    for name, eps in RADII.items():
        attack = PGD(ThreatModel("linf", eps=eps), num_steps=50)
        found |= {
            f"pgd50_{name}_deployed": AttackRun(attack),
            f"pgd50_{name}_eot10": AttackRun(attack, view="fresh", eot_samples=10),
            f"pgd50_{name}_eot50": AttackRun(attack, view="fresh", eot_samples=50),
            f"pgd50_{name}_pure": AttackRun(attack, view="noise_off"),
        }
    return Evaluation(attacks=found, batch_size=128)


VARIANTS = {
    "default": recipes.evaluation("cifar10", "resnet50"),
    "table1": recipes.evaluation("cifar10", "resnet50"),
    "table2": recipes.evaluation("cifar10", "vgg16"),
    "table4": table4(),
    "honest": honest(),
}


def get_config(variant: str = "default") -> Evaluation:
    """Returns an evaluation."""
    return VARIANTS[variant]
