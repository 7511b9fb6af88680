"""Adaptive diversity promoting (ADP) on CIFAR-10: the rows of PARL's and LPD's papers.

    python train.py configs/adp_cifar10.py        # three ResNet-20: PARL's ENS_ADP
    python train.py configs/adp_cifar10.py:lpd    # three ResNet-18: LPD's ADP

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Pang et al., "Improving Adversarial Robustness via Promoting Ensemble Diversity", ICML 2019. What
the two papers report (%; LPD's tables 2 and 3: `lpd_cifar10.py`):

| attack        | PARL table 1 (default) | LPD table 4 (lpd) |
|---------------|------------------------|-------------------|
| none          | 92.99                  | 95.49             |
| FGSM          | 23.53                  | 62.93, 43.27      |
| BIM           | 8.13                   | 38.17, 16.93      |
| MIM           | 7.53                   | -                 |
| PGD           | 3.08                   | 38.97, 15.27      |
| JSMA .05, .1  | -                      | 50.42, 21.29      |
| C&W .1        | -                      | 0.75              |

PARL's attacks are transferred, with eps = .07; LPD's see the network, with eps = .02 and .04. LPD's
tables 2 and 3 are of `lpd` too, figure 2 of `lpd_width4`; 64 seconds an epoch (baseline 54).

PARL's paper has the original recipe (its authors' repository: cross-entropies summed over members,
alpha 2, beta .5); LPD's follows PDD's code, which takes their mean. RLS's ADP row is
`rls_cifar10.py:adp`.

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import AdaptiveDiversityPromoting

from .eval.lpd import table4
from .eval.parl import curves
from .recipes import changes
from .recipes import ensembles as recipes

LPD = recipes.lpd(
    "cifar10",
    AdaptiveDiversityPromoting(network=recipes.resnet18_ensemble(), cross_entropy="mean"),
    table4((0.02, 0.04), (0.02, 0.04)),
)

VARIANTS = {
    "default": recipes.parl(
        "cifar10",
        AdaptiveDiversityPromoting(
            network=recipes.keras_ensemble(), vote="majority_mean_probability"
        ),
        curves(None, (0.07,)),
    ),
    "lpd": LPD,
    "lpd_width4": changes.with_method(
        LPD, network=recipes.resnet18_ensemble(width_multiplier=1 / 16)
    ),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "adp_cifar10", variant)
