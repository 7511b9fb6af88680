"""Plain ensembles on CIFAR-10, and Monte-Carlo dropout: what the papers compare with.

    python train.py configs/ensemble_cifar10.py            # three ResNet-18: LPD's baseline
    python train.py configs/ensemble_cifar10.py:resnet20   # three ResNet-20: PARL's ENS_U

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

| row                                             | variant   | paper (%)                          |
|-------------------------------------------------|-----------|------------------------------------|
| LPD table 4: baseline                           | default   | clean 95.48; see `lpd_cifar10.py`  |
| LPD figure 2: baseline, base width 4            | width4    | curve                              |
| LPD type II surrogate: 3 x ResNet-34            | resnet34  | -                                  |
| PARL table 1: ENS_U                             | resnet20  | clean 93.11; see `parl_cifar10.py` |
| RLS table 3: Stochastic Dropout, ResNet-50      | dropout   | FGSM 58.5, PGD 59.0                |

Wu et al., ECAI 2023 (LPD); Alam et al., arXiv 2112.04948v1, 2021 (PARL); Lee et al., BMVC 2020
(RLS). The last names neither the place nor the rate of its dropout: half of the pooled features,
10 draws (`dropout`), or a tenth of every activation (`dropout_everywhere`); training as in RLS: SGD
.01, a tenth every 50 of 150 epochs, weight decay 5e-4 (batch size and augmentation: LPD's).

Ours: not yet run.
"""

import dataclasses

from robust_jax.experiment.config import Config
from robust_jax.methods import MonteCarloDropout, Standard
from robust_jax.models import ResNetConfig
from robust_jax.training import Phase
from robust_jax.training.optimizers import MultiStep

from .eval.lpd import table4
from .eval.parl import curves
from .recipes import changes
from .recipes import ensembles as recipes

BASE = recipes.lpd(
    "cifar10",
    recipes.plain(recipes.resnet18_ensemble()),
    table4((0.02, 0.04), (0.02, 0.04)),
)
DROPOUT = dataclasses.replace(
    BASE,
    method=MonteCarloDropout(network=ResNetConfig(depth=50)),
    optimizer=dataclasses.replace(
        BASE.optimizer, learning_rate=0.01, schedule=MultiStep(epochs=(50.0, 100.0))
    ),
    training=dataclasses.replace(BASE.training, phases=(Phase(epochs=150.0, batch_size=64),)),
)

VARIANTS = {
    "default": BASE,
    "width4": changes.with_method(BASE, network=recipes.resnet18_ensemble(width_multiplier=1 / 16)),
    "resnet34": changes.with_method(BASE, network=recipes.resnet18_ensemble(depth=34)),
    "resnet20": recipes.parl(
        "cifar10",
        Standard(network=recipes.keras_ensemble(), vote="majority_mean_probability"),
        curves(None, (0.07,)),
    ),
    "dropout": DROPOUT,
    "dropout_everywhere": changes.with_method(DROPOUT, where="activations", rate=0.1),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "ensemble_cifar10", variant)
