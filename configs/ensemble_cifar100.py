"""Plain ensembles on CIFAR-100: the baselines of LPD's and PARL's papers.

    python train.py configs/ensemble_cifar100.py            # three ResNet-18: LPD's baseline
    python train.py configs/ensemble_cifar100.py:resnet20   # three ResNet-20: PARL's ENS_U

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

| row                            | variant          | paper                                        |
|--------------------------------|------------------|----------------------------------------------|
| LPD table 1: K = 3             | default          | E 0.1905; attacks: `lpd_cifar100.py`         |
| LPD table 1: K = 5             | five             | E 0.1874                                     |
| LPD table 6: adversarial       | at_fgsm, at_pgd  | `lpd_cifar100.py`                            |
| LPD table 5: type I surrogate  | vgg16            | `lpd_cifar100.py`                            |
| LPD table 5: type II surrogate | resnet34         | `lpd_cifar100.py`                            |
| PARL table 1: ENS_U            | resnet20         | clean 70.88 %; attacks: `parl_cifar100.py`   |

LPD's rows train on the mean of the members' cross-entropies, PARL's on their sum, as the ensembles
that they are compared with. The surrogate of type I is PDD's: torchvision's VGG-16 with BatchNorm,
whose 7 x 7 positions are copies of the only one that images of 32 x 32 leave (135 million numbers a
member); without the dropout of its hidden linear layers, which networks here do not have.

Wu et al., ECAI 2023 (LPD); Alam et al., arXiv 2112.04948v1, 2021 (PARL).

Ours: not yet run.
"""

from robust_jax.attacks import FGSM, PGD, ThreatModel
from robust_jax.experiment.config import Config
from robust_jax.methods import Standard

from .eval.lpd import table4
from .eval.parl import curves
from .recipes import changes
from .recipes import ensembles as recipes

BASE = recipes.lpd(
    "cifar100",
    recipes.plain(recipes.resnet18_ensemble()),
    table4((0.04, 0.08), (0.02, 0.04)),
)
THREAT = ThreatModel("linf", eps=0.03)

VARIANTS = {
    "default": BASE,
    "five": changes.with_method(BASE, network=recipes.resnet18_ensemble(5)),
    "resnet34": changes.with_method(BASE, network=recipes.resnet18_ensemble(depth=34)),
    "vgg16": changes.with_method(BASE, network=recipes.vgg16_ensemble()),
    "at_fgsm": recipes.adversarially_trained(BASE, FGSM(THREAT)),
    "at_pgd": recipes.adversarially_trained(BASE, PGD(THREAT, num_steps=10)),
    "resnet20": recipes.parl(
        "cifar100",
        Standard(network=recipes.keras_ensemble(), vote="majority_mean_probability"),
        curves(None, (0.07,)),
    ),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "ensemble_cifar100", variant)
