"""Adaptive diversity promoting (ADP) on TinyImageNet at 64 x 64: the rows of LPD's paper.

    python train.py configs/adp_tiny_imagenet.py        # three ResNet-18, CIFAR stem
    python train.py configs/adp_tiny_imagenet.py:five

`--data.source.path DIR` says where TinyImageNet is unpacked.

Pang et al., ICML 2019. LPD: Wu et al., ECAI 2023. Table 4 (%): clean 66.94, FGSM .02 12.46, .04
3.79, BIM .01 12.41, .02 2.32, PGD 19.85, 3.81, JSMA 47.74, 28.95, C&W 1.02. Table 1: E 0.3082
(K = 3, default) and 0.3046 (K = 5, `five`).

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import AdaptiveDiversityPromoting

from .eval.lpd import table4
from .recipes import changes
from .recipes import ensembles as recipes

BASE = recipes.lpd(
    "tiny_imagenet",
    AdaptiveDiversityPromoting(network=recipes.resnet18_ensemble(), cross_entropy="mean"),
    table4((0.02, 0.04), (0.01, 0.02)),
)

VARIANTS = {
    "default": BASE,
    "five": changes.with_method(BASE, network=recipes.resnet18_ensemble(5)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "adp_tiny_imagenet", variant)
