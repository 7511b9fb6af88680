"""GradDiv on CIFAR-10: a random network (RSE's VGG-16) with scattered loss gradients.

    python train.py configs/grad_div_cifar10.py         # mean resultant length
    python train.py configs/grad_div_cifar10.py:kappa   # von Mises-Fisher concentration
    python train.py configs/grad_div_cifar10.py:dpp     # determinantal point process

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Lee, Kim and Lee, "GradDiv: Adversarial Robustness of Randomized Neural Networks via Gradient
Diversity Regularization", arXiv 2107.02425, 2021. None of the five papers compares with it. The
authors' code (Sungyoon-Lee/GradDiv) was not read: weights and forms are choices of this project
(robust_jax/methods/grad_div.py), the recipe is RSE's.

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import GradDiv

from .recipes import baselines, changes, rls

BASE = baselines.cifar10(
    GradDiv(network=rls.VGG16),
    baselines.RSE_OPTIMIZER,
    rls.evaluation("cifar10", "vgg16", view="one_draw"),
)

VARIANTS = {
    "default": BASE,
    "kappa": changes.with_method(BASE, penalty="kappa", weight=1e-3),
    "dpp": changes.with_method(BASE, penalty="dpp", weight=0.1),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "grad_div_cifar10", variant)
