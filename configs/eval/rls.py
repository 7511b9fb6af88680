"""The attacks of the random layer sampling paper, CIFAR-10, and honest ones.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020.

    python evaluate.py --checkpoint runs/rls_cifar10 --config configs/eval/rls.py:table4

* table1 (default), table2: attacks on one frozen draw, judged by the mean of N fresh draws;
* table3, table3_one_draw (RSE, SAP), table3_deterministic (none, ADP): the defences compared;
* table4: FGSM, PGD and C&W on the mean of 1, 5, 10 and 15 frozen draws;
* honest: beside the paper's FGSM and PGD, at eps .01 and .02 (the paper's) and 8/255: PGD-50 on
  what is deployed (fresh draws at every step) and on the pure sub-models, APGD on means of 20
  fresh draws (of probabilities, and of the losses' gradients), APGD and Square on the predictor
  under fixed draws (two predictions, 2 N models). Columns: the paper's rule, the mean of ten fresh
  predictions, and the predictor under fixed draws.

eps of the paper are for pixels in [-1, 1]; names keep them, attacks have half.
"""

import dataclasses

from recipes import rls as recipes

from robust_jax.attacks import APGD, PGD, Averaged, Square, ThreatModel
from robust_jax.protocol import AttackRun, Evaluation, Judge, side_by_side

RADII = {"0.01": 0.005, "0.02": 0.01, "8of255": 8 / 255}


def table4() -> Evaluation:
    """Returns table 4, by number of attacked models."""
    found = {}
    for size in (1, 5, 10, 15):
        runs = recipes.attacks("cifar10", "resnet50", view=f"frozen_{size}")
        for name in ("fgsm_0.01", "pgd10_0.01", "cw_0.01"):
            found[f"{name}_models{size}"] = runs[name]
    return Evaluation(attacks=found, judges={"paper": Judge(rule="paper")}, batch_size=128)


def table3(view: str) -> Evaluation:
    """Returns table 3: the smaller eps and constant of table 1, on one random model.

    Args:
        view: of the defence: "frozen_1" of RLS, "one_draw" of RSE and SAP, "deployed" of others.
    """
    runs = recipes.attacks("cifar10", "resnet50", view=view)
    names = ("fgsm_0.01", "pgd10_0.01", "deepfool", "cw_0.01", "ead_0.01")
    return Evaluation(
        attacks={name: runs[name] for name in names},
        judges={"paper": Judge(rule="paper")},
        batch_size=128,
    )


def honest() -> Evaluation:
    """Returns the paper's PGD beside attacks on what is deployed."""
    found = recipes.attacks("cifar10", "resnet50")
    found = {name: found[name] for name in ("fgsm_0.01", "pgd10_0.01")}
    for name, eps in RADII.items():
        threat = ThreatModel("linf", eps=eps)
        pgd = PGD(threat, num_steps=50)
        apgd = APGD(threat)
        adaptive = {
            f"pgd50_{name}_deployed": AttackRun(pgd),
            f"pgd50_{name}_pure": AttackRun(pgd, view="noise_off"),
            f"apgd_{name}_eot20": AttackRun(apgd, view="fresh", eot_samples=20),
            f"apgd_{name}_gradients20": AttackRun(Averaged(threat, apgd), view="fresh"),
            f"apgd_{name}_fixed": AttackRun(apgd, eot_samples=2, draws="fixed"),
            f"square_{name}_fixed": AttackRun(Square(threat), eot_samples=2, draws="fixed"),
        }
        found |= {key: dataclasses.replace(run, adaptive=True) for key, run in adaptive.items()}
    judges = side_by_side() | {"fixed": Judge(rule="fixed", num_draws=2)}
    return Evaluation(attacks=found, judges=judges, num_examples=1000, batch_size=128)


VARIANTS = {
    "default": recipes.evaluation("cifar10", "resnet50"),
    "table1": recipes.evaluation("cifar10", "resnet50"),
    "table2": recipes.evaluation("cifar10", "vgg16"),
    "table3": table3("frozen_1"),
    "table3_one_draw": table3("one_draw"),
    "table3_deterministic": table3("deployed"),
    "table4": table4(),
    "honest": honest(),
}


def get_config(variant: str = "default") -> Evaluation:
    """Returns an evaluation."""
    return VARIANTS[variant]
