"""PARL on CIFAR-100: three ResNet-20, gradients of the first 7 convolutions.

    python train.py configs/parl_cifar100.py           # ENS_PARL, H = 7
    python evaluate.py --checkpoint runs/parl_cifar100 --config configs/eval/parl.py:eps0.07

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Alam et al., "PARL: Enhancing Diversity of Ensemble Networks to Resist Adversarial Attacks via
Pairwise Adversarially Robust Loss Function", arXiv 2112.04948v1, 2021. Table 1 (%), adversarial
examples of eps = .07 transferred from a plain ensemble of three ResNet-20:

| row      | variant                       | clean | FGSM  | BIM   | MIM   | PGD   |
|----------|-------------------------------|-------|-------|-------|-------|-------|
| ENS_U    | ensemble_cifar100.py:resnet20 | 70.88 | 7.13  | 7.17  | 3.93  | 5.39  |
| ENS_PARL | default                       | 67.52 | 12.73 | 18.97 | 10.01 | 21.49 |

PGD leaves more right than FGSM: the attack overfits the surrogate, it is not the defence.

Table 2 and figure 5 (fewer layers): `layers5`, `layers3`. `parameters5`, `parameters6`: the
authors' later method (see `parl_cifar10.py`).

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import PARL

from .eval.parl import curves
from .recipes import changes
from .recipes import ensembles as recipes

BASE = recipes.parl("cifar100", PARL(network=recipes.keras_ensemble()), curves(None, (0.07,)))

VARIANTS = {
    "default": BASE,
    "layers5": changes.with_method(BASE, num_layers=5),
    "layers3": changes.with_method(BASE, num_layers=3),
    "parameters5": recipes.parl_parameters("cifar100", 5, curves(None, (0.07,))),
    "parameters6": recipes.parl_parameters("cifar100", 6, curves(None, (0.07,))),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "parl_cifar100", variant)
