"""Adaptive diversity promoting (ADP) on CIFAR-100: the rows of PARL's and LPD's papers.

    python train.py configs/adp_cifar100.py            # three ResNet-20: PARL's ENS_ADP
    python train.py configs/adp_cifar100.py:lpd_five   # five ResNet-18: LPD's ADP, K = 5

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Pang et al., ICML 2019; PARL: Alam et al., arXiv 2112.04948v1, 2021; LPD: Wu et al., ECAI 2023. What
the two papers report (%):

| row                       | variant  | paper                                                   |
|---------------------------|----------|---------------------------------------------------------|
| PARL table 1, eps = .07   | default  | clean 70.01, FGSM 8.23, BIM 10.07, MIM 5.83, PGD 8.72   |
| LPD table 1, K = 3        | lpd      | E 0.2155                                                |
| LPD table 1, K = 5        | lpd_five | E 0.2240                                                |
| LPD figure 3              | lpd      | curves                                                  |
| LPD table 5, type I       | lpd      | PGD .02 41.10, .04 17.94, JSMA .05 68.59, .1 59.18      |
| LPD table 5, type II      | lpd      | PGD .01 66.35, .02 47.98, JSMA .05 58.46, .1 39.64      |

The surrogate of type II is `lpd_resnet34`.

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import AdaptiveDiversityPromoting

from .eval.lpd import table4
from .eval.parl import curves
from .recipes import changes
from .recipes import ensembles as recipes

LPD = recipes.lpd(
    "cifar100",
    AdaptiveDiversityPromoting(network=recipes.resnet18_ensemble(), cross_entropy="mean"),
    table4((0.04, 0.08), (0.02, 0.04)),
)

VARIANTS = {
    "default": recipes.parl(
        "cifar100",
        AdaptiveDiversityPromoting(
            network=recipes.keras_ensemble(), vote="majority_mean_probability"
        ),
        curves(None, (0.07,)),
    ),
    "lpd": LPD,
    "lpd_five": changes.with_method(LPD, network=recipes.resnet18_ensemble(5)),
    "lpd_resnet34": changes.with_method(LPD, network=recipes.resnet18_ensemble(depth=34)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "adp_cifar100", variant)
