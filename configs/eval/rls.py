"""The attacks of the random layer sampling paper, CIFAR-10, and honest ones.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020.

    python evaluate.py --checkpoint runs/rls_cifar10 --config configs/eval/rls.py:table4

* table1 (default), table2: attacks on one frozen draw, judged by the mean of N fresh draws;
* table3, table3_one_draw (RSE, SAP), table3_deterministic (none, ADP): the defences compared;
* table5 (RLS), table5_one_draw (RSE, SAP), table5_deterministic (ADP: its members): interrater
  agreement of ten draws, ten times, on all clean test images (the paper does not say on which), of
  the checkpoints of any of the three datasets; what the paper prints stands beside ours;
* table6: one frozen draw of `rls_cifar10:draws5`, default and `draws15`; table6_ensemble: one
  member of `ensemble3` and `ensemble5`;
* table4: FGSM, PGD and C&W on the mean of 1, 5, 10 and 15 frozen draws;
* honest: beside the paper's FGSM and PGD, at eps .01 and .02 (the paper's) and 8/255: PGD-50 on
  what is deployed (fresh draws at every step) and on the pure members, APGD on means of 20
  fresh draws (of probabilities, and of the losses' gradients), ARC on one of 8 drawn models, APGD
  and Square on the predictor under fixed draws (two predictions, 2 N models). Columns: the paper's
  rule, the mean of ten fresh predictions, and the predictor under fixed draws;
* honest_one_draw (RSE, SAP): beside the paper's FGSM and PGD on one fresh pass, both of them and
  APGD on the mean of 20 fresh passes (EOT) and on the network without its randomness, ARC on one
  of 8 passes, APGD and Square on the prediction under fixed draws. Columns: the paper's rule, the
  mean of two fresh predictions, each a mean of the method's own passes, and the prediction under
  fixed draws.

eps of the paper are for pixels in [-1, 1]; names keep them, attacks have half.
"""

import dataclasses

from robust_jax.attacks import APGD, ARC, FGSM, PGD, Averaged, Square, ThreatModel
from robust_jax.evaluation.measures import Agreement, PrintedNumbers
from robust_jax.evaluation.protocol import (
    AttackRun,
    Evaluation,
    Judge,
    Printed,
    Selection,
    side_by_side,
)

from ..recipes import printed
from ..recipes import rls as recipes

TABLE3 = printed.table(
    "table 3",
    """
    model                | fgsm_0.01 pgd10_0.01 deepfool cw_0.01 ead_0.01
    rls_cifar10-baseline | 45.4      36.4       0.4      41.7    26.2
    rls_cifar10-adp      | 70.2      61.7       20.3     52.0    61.9
    rls_cifar10-rse      | 51.8      45.8       82.1     91.2    75.4
    rls_cifar10-sap      | 58.5      59.0       56.4     53.4    38.1
    rls_cifar10          | 65.1      70.9       84.9     91.7    79.0
    """,
)
TABLE6 = printed.table(
    "table 6",
    """
    model                 | fgsm_0.01 pgd10_0.01 cw_0.01
    rls_cifar10-ensemble3 | 50.2      53.7       46.7
    rls_cifar10-ensemble5 | 51.1      55.2       47.6
    rls_cifar10-draws5    | 64.8      70.3       91.5
    rls_cifar10           | 65.2      70.8       91.7
    rls_cifar10-draws15   | 65.1      70.9       91.7
    """,
)
TABLE5 = {
    "mnist": {"sap": (0.53, 0.005), "rse": (0.55, 0.015), "adp": (0.52,), "": (0.43, 0.021)},
    "cifar10": {"sap": (0.58, 0.004), "rse": (0.60, 0.031), "adp": (0.54,), "": (0.51, 0.018)},
    "svhn": {"sap": (0.62, 0.003), "rse": (0.66, 0.024), "adp": (0.62,), "": (0.58, 0.023)},
}
"""By dataset and variant, the agreement's mean and deviation over repeats; ADP's has none."""
TABLE4 = {
    "fgsm_0.01": (65.1, 60.5, 58.7, 63.1),
    "pgd10_0.01": (70.9, 65.3, 60.9, 60.2),
    "cw_0.01": (91.7, 84.5, 82.3, 81.7),
}
MODELS = (1, 5, 10, 15)
RADII = {"0.01": 0.005, "0.02": 0.01, "8of255": 8 / 255}


def table4() -> Evaluation:
    """Returns table 4, by number of attacked models."""
    found = {}
    for size in MODELS:
        runs = recipes.attacks("cifar10", "resnet50", view=f"frozen_{size}")
        found |= {f"{name}_models{size}": runs[name] for name in TABLE4}
    numbers = {
        f"{name}_models{size}": number
        for name, row in TABLE4.items()
        for size, number in zip(MODELS, row, strict=True)
    }
    return Evaluation(
        attacks=found,
        judges=recipes.JUDGES,
        adversary=recipes.ADVERSARY,
        batch_size=128,
        printed=Printed("table 4", {"rls_cifar10": numbers}),
    )


def table3(view: str) -> Evaluation:
    """Returns table 3: the smaller eps and constant of table 1, on one random model.

    Args:
        view: of the defence: "frozen_1" of RLS, "one_draw" of RSE and SAP, "deployed" of others.
    """
    runs = recipes.attacks("cifar10", "resnet50", view=view)
    names = ("fgsm_0.01", "pgd10_0.01", "deepfool", "cw_0.01", "ead_0.01")
    return Evaluation(
        attacks={name: runs[name] for name in names},
        judges=recipes.JUDGES,
        adversary=recipes.ADVERSARY,
        batch_size=128,
        printed=TABLE3,
    )


def table5(view: str | None) -> Evaluation:
    """Returns table 5: no attack, the agreement of ten draws, ten times.

    Args:
        view: a single draw: "fresh" of RLS, "one_draw" of RSE and SAP; None for fixed members.
    """
    places = ("interrater_agreement.mean", "interrater_agreement.deviation")
    rows: dict[str, dict[str, float]] = {
        f"rls_{dataset}-{variant}".removesuffix("-"): dict(zip(places, numbers, strict=False))
        for dataset, columns in TABLE5.items()
        for variant, numbers in columns.items()
    }
    agreement = Agreement(num_examples=None, printed=PrintedNumbers("table 5", rows))
    if view is not None:
        agreement = dataclasses.replace(agreement, view=view, num_draws=10, num_repeats=10)
    return Evaluation(measures={"agreement": agreement}, sanity=False)


def table6(view: str) -> Evaluation:
    """Returns table 6.

    Args:
        view: "frozen_1" of RLS, "member_0" of a plain ensemble.
    """
    runs = recipes.attacks("cifar10", "resnet50", view=view)
    return Evaluation(
        attacks={name: runs[name] for name in ("fgsm_0.01", "pgd10_0.01", "cw_0.01")},
        judges=recipes.JUDGES,
        adversary=recipes.ADVERSARY,
        batch_size=128,
        printed=TABLE6,
    )


def sampled_arc(threat: ThreatModel) -> Averaged:
    """Returns ARC on eight draws, each of which may be the one that decides."""
    return Averaged(threat, ARC(threat, first=APGD(threat)), num_samples=8)


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
            f"arc_{name}_draws8": AttackRun(sampled_arc(threat), view="fresh"),
            f"apgd_{name}_fixed": AttackRun(apgd, eot_samples=2, draws="fixed"),
            f"square_{name}_fixed": AttackRun(Square(threat), eot_samples=2, draws="fixed"),
        }
        found |= {key: dataclasses.replace(run, adaptive=True) for key, run in adaptive.items()}
    judges = side_by_side(recipes.PAPERS_RULE) | {"fixed": Judge(rule="fixed", num_draws=2)}
    return Evaluation(
        attacks=found,
        judges=judges,
        adversary=recipes.ADVERSARY,
        selection=Selection(num_examples=1000),
        batch_size=128,
    )


def honest_one_draw(eps: float = RADII["0.01"]) -> Evaluation:
    """Returns attacks on one pass, as the paper's, beside attacks through and around the noise."""
    threat = ThreatModel("linf", eps)
    pgd = PGD(threat, num_steps=10, step_size=eps / 10, random_start=False, keep="last")
    own = {"fgsm": FGSM(threat), "pgd10": pgd}
    attacks = own | {"apgd": APGD(threat)}
    eot = {"view": "one_draw", "eot_samples": 20}
    adaptive = {f"{name}_eot20": AttackRun(attack, **eot) for name, attack in attacks.items()}
    adaptive |= {
        "arc_draws8": AttackRun(sampled_arc(threat), view="one_draw"),
        "apgd_noise_off": AttackRun(APGD(threat), view="noise_off"),
        "apgd_fixed": AttackRun(APGD(threat), draws="fixed"),
        "square_fixed": AttackRun(Square(threat), draws="fixed"),
    }
    runs = {name: AttackRun(attack, view="one_draw") for name, attack in own.items()}
    runs |= {name: dataclasses.replace(run, adaptive=True) for name, run in adaptive.items()}
    judges = side_by_side(recipes.PAPERS_RULE, Judge(num_draws=2))
    judges |= {"fixed": Judge(rule="fixed", num_draws=1)}
    return Evaluation(
        attacks=runs,
        judges=judges,
        adversary=recipes.ADVERSARY,
        selection=Selection(num_examples=1000),
        batch_size=128,
    )


VARIANTS = {
    "default": recipes.evaluation("cifar10", "resnet50"),
    "table1": recipes.evaluation("cifar10", "resnet50"),
    "table2": recipes.evaluation("cifar10", "vgg16"),
    "table3": table3("frozen_1"),
    "table3_one_draw": table3("one_draw"),
    "table3_deterministic": table3("deployed"),
    "table4": table4(),
    "table5": table5("fresh"),
    "table5_one_draw": table5("one_draw"),
    "table5_deterministic": table5(None),
    "table6": table6("frozen_1"),
    "table6_ensemble": table6("member_0"),
    "honest": honest(),
    "honest_one_draw": honest_one_draw(),
}


def get_config(variant: str = "default") -> Evaluation:
    """Returns an evaluation."""
    return VARIANTS[variant]
