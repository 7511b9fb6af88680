"""The attacks of LPD's paper, and honest ones.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023, table 4 and figure 3; sizes from PDD's code: BIM and PGD take 10 steps of eps / 10, PGD
from a random start; attacks move away from the label that the model itself predicts; JSMA moves
towards a random class by steps of .1; C&W searches the constant from .1, and is not bounded.

JSMA stands in three rows, and beside each of them the paper's one number: `jsma_*_art`, the search
of the toolbox that the paper names (ART 1.1), `jsma_*_pdd`, that of the copy in the repository of
its predecessor, PDD, whose scripts the paper's attacks follow, and `jsma_*_pair`, the map of JSMA's
own paper. They are different attacks: the first two follow the target's gradient alone and keep the
changes of searches that fail, and the copy moves int(gamma n / 2) pairs at most.

    python evaluate.py --checkpoint runs/lpd_cifar10 --config configs/eval/lpd.py:table4_cifar10
    python evaluate.py --checkpoint runs/lpd_cifar100 --config configs/eval/lpd.py:table5 \
        --sources oblivious runs/ensemble_cifar100-vgg16 adaptive runs/lpd_cifar100-resnet34

* table1: entropy E of the members' errors on all images (CIFAR-100, TinyImageNet);
* table2, table3: quartiles of L_d and of L_s on the first 2,000 images (CIFAR-10), the paper's
  beside them. Saturated members have small gradients whatever their directions: compare
  with the margin's, which is measured too;
* figure1: the keep rate against the value of its kernel;
* table4_cifar10 (default), table4_tiny_imagenet: white box;
* figure2: smallest margins of the members' mean logit by CROWN and by intervals at eps = .0005, of
  the first 200 images that LPD and all others get right (`width4` checkpoints; --sources baseline
  DIR adp DIR pdd DIR). The paper's text chooses by "all three models" and plots four; here all four
  choose. The deployed vote is of probabilities: `Margins(eps)` certifies that one; figure2_alone:
  that the checkpoint alone gets right;
* figure3: PGD over eps in both norms;
* table5: PGD and JSMA of two other ensembles, one plain (type I: `oblivious`, three VGG-16 with
  BatchNorm, `ensemble_cifar100.py:vgg16`) and one with the same defence (type II: `adaptive`, three
  ResNet-34, the variant `resnet34` of the checkpoint's file; `pdd_resnet34` of PDD, `lpd_resnet34`
  of ADP). The attack starts from what the surrogate predicts;
* table6: FGSM and PGD on adversarially trained ensembles (CIFAR-100);
* converged: PGD with 100 steps and 5 restarts, three losses, on logits as they are;
* honest: the paper's PGD beside AutoAttack, FrugalAttack, PGD-100 on logits divided by their own
  gap (LPD's large logits starve ten steps of gradient, see `lpd_cifar10.py`), MORA on the members,
  and ARC on one of them at random. Columns: the paper's attacks, all, and all where one member at
  random decides.

The paper counts only images that were right before the attack: so do its printed numbers' column
and the paper's column of `honest`; of the others it is `given_clean_correct` of summary.json.
"""

import dataclasses

from robust_jax.attacks import (
    APGD,
    ARC,
    BIM,
    FGSM,
    JSMA,
    MORA,
    PGD,
    AutoAttack,
    CarliniWagner,
    FrugalAttack,
    Rescaled,
    ThreatModel,
)
from robust_jax.certify import Margins
from robust_jax.evaluation.measures import Agreement, Gradients, KeepRate, Measure, PrintedNumbers
from robust_jax.evaluation.protocol import (
    Adversary,
    AttackRun,
    Evaluation,
    Judge,
    Selection,
    side_by_side,
)

from ..recipes import printed

PAPERS_COUNT = Judge(rule="paper", counts="given_clean_correct")

FROM_PREDICTED = Adversary(labels="predicted")
GAMMAS = (0.05, 0.1)


def jsma(gamma: float) -> dict[str, JSMA]:
    """Returns three readings of the paper's JSMA, each towards a random class."""
    readings = {
        "art": JSMA.art(theta=0.1, gamma=gamma),
        "pdd": JSMA.art_in_pdd(theta=0.1, gamma=gamma),
        "pair": JSMA(theta=0.1, gamma=gamma),
    }
    return {f"jsma_{gamma}_{name}": attack for name, attack in readings.items()}


READINGS = {f"JSMA_{gamma}": tuple(jsma(gamma)) for gamma in GAMMAS}
"""Our rows beside which a number of the paper stands."""

TABLE1 = {
    "ensemble_cifar100": 0.1905,
    "ensemble_cifar100-five": 0.1874,
    "adp_cifar100-lpd": 0.2155,
    "adp_cifar100-lpd_five": 0.2240,
    "lpd_cifar100-pdd": 0.2277,
    "lpd_cifar100-pdd_five": 0.2462,
    "lpd_cifar100": 0.2631,
    "lpd_cifar100-five": 0.2784,
    "ensemble_tiny_imagenet": 0.2553,
    "ensemble_tiny_imagenet-five": 0.2624,
    "adp_tiny_imagenet": 0.3082,
    "adp_tiny_imagenet-five": 0.3046,
    "lpd_tiny_imagenet-pdd": 0.4117,
    "lpd_tiny_imagenet-pdd_five": 0.4126,
    "lpd_tiny_imagenet": 0.4624,
    "lpd_tiny_imagenet-five": 0.4667,
}
"""Entropy E."""
TABLES_2_AND_3 = {
    "ensemble_cifar10": ((0.376, 0.606, 0.924), (0.0386, 0.0703, 0.398)),
    "adp_cifar10-lpd": ((-0.148, 0.0273, 0.277), (0.445, 0.649, 2.21)),
    "lpd_cifar10-pdd": ((-4.11e-8, -9.93e-12, 6.23e-9), (8.02e-7, 7.40e-6, 5.08e-5)),
    "lpd_cifar10": ((1.25e-14, 1.04e-11, 2.49e-8), (3.57e-9, 3.50e-8, 6.78e-7)),
}
"""Quantiles of L_d, and of L_s, at 25, 50 and 75 %."""

TABLE4_CIFAR10 = printed.table(
    "table 4",
    """
    model            | clean fgsm_0.02 fgsm_0.04 bim_0.02 bim_0.04
                     | pgd_0.02 pgd_0.04 JSMA_0.05 JSMA_0.1 cw_0.1
    ensemble_cifar10 | 95.48 47.07 34.32 6.01  1.00  7.49  0.37  27.20 7.73  0.14
    adp_cifar10-lpd  | 95.49 62.93 43.27 38.17 16.93 38.97 15.27 50.42 21.29 0.75
    lpd_cifar10-pdd  | 95.58 58.42 41.75 30.12 12.43 33.92 13.38 48.78 18.67 61.60
    lpd_cifar10      | 95.83 73.26 65.55 42.69 21.95 45.90 27.50 68.69 49.50 68.60
    """,
    of="given_clean_correct",
    several=READINGS,
)
TABLE4_TINY_IMAGENET = printed.table(
    "table 4",
    """
    model                  | clean fgsm_0.02 fgsm_0.04 bim_0.01 bim_0.02
                           | pgd_0.01 pgd_0.02 JSMA_0.05 JSMA_0.1 cw_0.1
    ensemble_tiny_imagenet | 67.36 18.87 7.44  16.87 3.30  22.85 5.30  43.64 26.18 3.57
    adp_tiny_imagenet      | 66.94 12.46 3.79  12.41 2.32  19.85 3.81  47.74 28.95 1.02
    lpd_tiny_imagenet-pdd  | 64.68 45.63 24.92 34.22 16.35 39.16 17.49 65.78 52.09 27.76
    lpd_tiny_imagenet      | 64.17 50.85 30.61 41.24 21.62 44.22 25.34 69.68 57.47 25.34
    """,
    of="given_clean_correct",
    several=READINGS,
)
TABLE4 = {
    ((0.02, 0.04), (0.02, 0.04)): TABLE4_CIFAR10,
    ((0.02, 0.04), (0.01, 0.02)): TABLE4_TINY_IMAGENET,
}
TABLE6 = printed.table(
    "table 6",
    """
    model                       | fgsm_0.04 fgsm_0.08 pgd_0.02 pgd_0.04
    ensemble_cifar100-at_fgsm   | 41.06     20.80     20.15    3.62
    lpd_cifar100-pdd_at_fgsm    | 59.64     27.09     38.17    19.50
    lpd_cifar100-at_fgsm        | 61.23     29.45     40.42    21.30
    ensemble_cifar100-at_pgd    | 44.14     21.67     44.11    15.69
    lpd_cifar100-pdd_at_pgd     | 55.56     34.68     51.02    26.13
    lpd_cifar100-at_pgd         | 56.74     36.35     53.11    27.52
    """,
    of="given_clean_correct",
)
TABLE5 = printed.table(
    "table 5",
    """
    model             | pgd_0.02_oblivious pgd_0.04_oblivious JSMA_0.05_oblivious JSMA_0.1_oblivious
                      | pgd_0.01_adaptive  pgd_0.02_adaptive  JSMA_0.05_adaptive  JSMA_0.1_adaptive
    ensemble_cifar100 | 40.31 15.47 66.81 55.93 77.15 56.63 56.33 35.91
    adp_cifar100-lpd  | 41.10 17.94 68.59 59.18 66.35 47.98 58.46 39.64
    lpd_cifar100-pdd  | 60.49 30.38 72.35 62.24 87.37 77.60 69.32 58.71
    lpd_cifar100      | 65.14 34.80 77.45 68.93 85.27 73.08 74.24 66.21
    """,
    of="given_clean_correct",
    several=READINGS,
)


def pgd(eps: float, norm: str = "linf") -> PGD:
    """Returns the paper's PGD."""
    threat = ThreatModel("l2" if norm == "l2" else "linf", eps=eps)
    return PGD(threat, num_steps=10, step_size=eps / 10, keep="last")


def table4(fgsm: tuple[float, float], iterative: tuple[float, float]) -> Evaluation:
    """Returns table 4, or its attacks at other eps."""
    attacks = {}
    for eps in fgsm:
        attacks[f"fgsm_{eps}"] = FGSM(ThreatModel("linf", eps=eps))
    for eps in iterative:
        bim = BIM(ThreatModel("linf", eps=eps), num_steps=10, step_size=eps / 10)
        attacks |= {f"bim_{eps}": bim, f"pgd_{eps}": pgd(eps)}
    attacks |= jsma(GAMMAS[0]) | jsma(GAMMAS[1])
    attacks["cw_0.1"] = CarliniWagner(
        num_searches=5, num_steps=1000, initial_constant=0.1, confidence=0.01
    )
    return Evaluation(
        attacks={name: AttackRun(attack) for name, attack in attacks.items()},
        adversary=FROM_PREDICTED,
        printed=TABLE4.get((fgsm, iterative)),
    )


def measured(name: str, measure: Measure) -> Evaluation:
    """Returns what is measured on the clean images, without an attack."""
    chosen = Selection(num_examples=measure.num_examples)
    return Evaluation(measures={name: measure}, selection=chosen, sanity=False)


def entropy() -> Evaluation:
    """Returns table 1."""
    rows = {name: {"entropy.mean": value} for name, value in TABLE1.items()}
    found = PrintedNumbers("table 1", rows)
    return measured("entropy", Agreement(num_examples=None, printed=found))


def gradients(table: int) -> Evaluation:
    """Returns table 2 or 3: each prints one of two statistics of the same gradients."""
    what = "L_d" if table == 2 else "L_s"
    rows = {
        name: {f"cross_entropy.{what}.{n}": value for n, value in enumerate(found[table - 2])}
        for name, found in TABLES_2_AND_3.items()
    }
    found = PrintedNumbers(f"table {table}", rows)
    return measured("gradients", Gradients(num_examples=2000, printed=found))


def figure3() -> Evaluation:
    """Returns PGD over eps in both norms; beyond eps = .5 no image may be right but by chance."""
    linf = {f"linf_{2**n * 0.005}": pgd(2**n * 0.005) for n in range(8)} | {"linf_1.0": pgd(1.0)}
    l2 = {f"l2_{2**n * 0.1}": pgd(2**n * 0.1, "l2") for n in range(8)}
    attacks = {name: AttackRun(attack) for name, attack in (linf | l2).items()}
    return Evaluation(attacks=attacks, adversary=FROM_PREDICTED)


def figure2(others: tuple[str, ...] = ()) -> Evaluation:
    """Returns the margins of 200 images that this model, and all others, get right."""
    return Evaluation(
        certificates={
            "CROWN, mean logit": Margins(0.0005, of="mean_logit"),
            "interval, mean logit": Margins(0.0005, bound="interval", of="mean_logit"),
        },
        others=others,
        num_certified=200,
        selection=Selection(rule="correct", num_examples=200),
    )


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
        attacks={name: AttackRun(attack) for name, attack in attacks.items()},
        selection=Selection(num_examples=1000),
    )


def table6() -> Evaluation:
    """Returns the attacks on adversarially trained ensembles."""
    attacks = {f"fgsm_{eps}": FGSM(ThreatModel("linf", eps=eps)) for eps in (0.04, 0.08)}
    attacks |= {f"pgd_{eps}": pgd(eps) for eps in (0.02, 0.04)}
    runs = {name: AttackRun(attack) for name, attack in attacks.items()}
    return Evaluation(attacks=runs, adversary=FROM_PREDICTED, printed=TABLE6)


def table5() -> Evaluation:
    """Returns the black-box attacks of types I and II."""
    sparse = jsma(GAMMAS[0]) | jsma(GAMMAS[1])
    attacks = {
        "oblivious": {"pgd_0.02": pgd(0.02), "pgd_0.04": pgd(0.04)} | sparse,
        "adaptive": {"pgd_0.01": pgd(0.01), "pgd_0.02": pgd(0.02)} | sparse,
    }
    runs = {
        f"{name}_{source}": AttackRun(attack, source=source)
        for source, found in attacks.items()
        for name, attack in found.items()
    }
    return Evaluation(attacks=runs, adversary=FROM_PREDICTED, printed=TABLE5)


def honest() -> Evaluation:
    """Returns the paper's PGD beside attacks that saturated logits cannot starve."""
    attacks = {}
    for eps in (0.005, 0.02, 0.04):
        threat = ThreatModel("linf", eps=eps)
        long = PGD(threat, num_steps=100, num_restarts=5, loss="margin")
        adaptive = {
            f"autoattack_{eps}": AttackRun(AutoAttack(threat)),
            f"frugal_{eps}": AttackRun(FrugalAttack(threat)),
            f"rescaled_pgd100_{eps}": AttackRun(Rescaled(threat, long)),
            f"mora_{eps}": AttackRun(MORA(threat), view="members"),
            f"arc_{eps}": AttackRun(ARC(threat, first=APGD(threat)), view="members"),
        }
        attacks[f"pgd_{eps}"] = AttackRun(pgd(eps))
        attacks |= {name: dataclasses.replace(run, adaptive=True) for name, run in adaptive.items()}
    judges = side_by_side(PAPERS_COUNT)
    judges["one member"] = Judge(view="members", rule="paper")
    return Evaluation(
        attacks=attacks,
        judges=judges,
        # Members may be right where the vote is wrong.
        adversary=dataclasses.replace(FROM_PREDICTED, skip_misclassified=False),
        selection=Selection(num_examples=1000),
    )


VARIANTS = {
    "default": table4((0.02, 0.04), (0.02, 0.04)),
    "table1": entropy(),
    "table2": gradients(2),
    "table3": gradients(3),
    "figure1": measured("keep rate", KeepRate(num_examples=1)),
    "table4_cifar10": table4((0.02, 0.04), (0.02, 0.04)),
    "table4_tiny_imagenet": table4((0.02, 0.04), (0.01, 0.02)),
    "figure2": figure2(("baseline", "adp", "pdd")),
    "figure2_alone": figure2(),
    "figure3": figure3(),
    "table5": table5(),
    "table6": table6(),
    "converged": converged(),
    "honest": honest(),
}


def get_config(variant: str = "default") -> Evaluation:
    """Returns the evaluation of a table or figure."""
    return VARIANTS[variant]
