"""Plain ensembles on TinyImageNet at 64 x 64: the baselines of LPD's paper.

    python train.py configs/ensemble_tiny_imagenet.py       # three ResNet-18, CIFAR stem
    python train.py configs/ensemble_tiny_imagenet.py:five

`--data.source.path DIR` says where TinyImageNet is unpacked.

Wu et al., "Deep Ensemble Robustness by Adaptive Sampling in Dropout-Based Simultaneous Training",
ECAI 2023: clean 67.36 %, entropy E 0.2553 (K = 3, default) and 0.2624 (K = 5, `five`); under attack
see `lpd_tiny_imagenet.py`.

Ours: not yet run.
"""

from robust_jax.experiment.config import Config

from .eval.lpd import table4
from .recipes import changes
from .recipes import ensembles as recipes

BASE = recipes.lpd(
    "tiny_imagenet",
    recipes.plain(recipes.resnet18_ensemble()),
    table4((0.02, 0.04), (0.01, 0.02)),
)

VARIANTS = {
    "default": BASE,
    "five": changes.with_method(BASE, network=recipes.resnet18_ensemble(5)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "ensemble_tiny_imagenet", variant)
