"""Gradient alignment loss (GAL) on CIFAR-10: three ResNet-20 with leaky ReLUs, PARL's ENS_GAL.

    python train.py configs/gal_cifar10.py

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Kariyappa and Qureshi, "Improving Adversarial Robustness of Ensembles with Diversity Training",
arXiv 1901.09981, 2019. PARL's paper, table 1, eps = .07 (%): clean 91.22, FGSM 22.8, BIM 9.3, MIM
8.33, PGD 7.64. That paper implemented GAL anew, without saying how; this is the recipe of DVERGE's
repository. `relu` has plain ReLUs, `clean` no noise on the training images.

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import GradientAlignment
from robust_jax.models import EnsembleConfig, ResNetConfig

from .eval.parl import curves
from .recipes import baselines, changes

BASE = baselines.cifar10(
    GradientAlignment(
        normalization=baselines.NORMALIZATION,
        vote="majority_mean_probability",
    ),
    baselines.ADAM,
    curves(None, (0.07,)),
)

VARIANTS = {
    "default": BASE,
    "relu": changes.with_method(BASE, network=EnsembleConfig(ResNetConfig(depth=20), 3)),
    "clean": changes.with_method(BASE, input_sigma=0.0),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "gal_cifar10", variant)
