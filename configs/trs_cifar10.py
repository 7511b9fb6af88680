"""TRS on CIFAR-10: an ensemble with dissimilar loss gradients of small norm.

    python train.py configs/trs_cifar10.py        # three ResNet-20, the authors' recipe
    python train.py configs/trs_cifar10.py:lpd    # three ResNet-18, LPD's section 5.4

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Yang et al., "TRS: Transferability Reduced Ensemble via Promoting Gradient Diversity and Model
Smoothness", NeurIPS 2021. LPD's paper only times it: 4,106 seconds an epoch (baseline 54, one
V100, batch size 64).

Here eps grows from .01 to .03 over the run: the numbers of the code are those of MNIST. Variants:
`code_ascent`, whose steps follow the sum of all gradients so far, as in the code, which clears
none; `own_gradients`, the norm of each example's own gradient, not of the batch mean's.

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import TransferabilityReducedSmooth

from .eval.lpd import table4
from .eval.parl import curves
from .recipes import baselines, changes
from .recipes import ensembles as recipes

BASE = baselines.cifar10(
    TransferabilityReducedSmooth(init_eps=0.01, final_eps=0.03),
    baselines.TRS_OPTIMIZER,
    curves(None, (0.01, 0.03)),
    num_epochs=120.0,
)

VARIANTS = {
    "default": BASE,
    "code_ascent": changes.with_method(BASE, momentum=1.0),
    "own_gradients": changes.with_method(BASE, reduction="sum"),
    "lpd": recipes.lpd(
        "cifar10",
        TransferabilityReducedSmooth(
            network=recipes.resnet18_ensemble(), init_eps=0.01, final_eps=0.03
        ),
        table4((0.02, 0.04), (0.02, 0.04)),
    ),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "trs_cifar10", variant)
