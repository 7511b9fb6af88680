"""The plain ResNet-18 on CIFAR-100: the KAP paper's baselines RN18-NT and RN18-AT-ES.

    python train.py configs/standard_cifar100.py        # NT
    python train.py configs/standard_cifar100.py:at     # AT-ES
    python evaluate.py --checkpoint runs/standard_cifar100 --config configs/eval/kap.py:table1

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022, tables 1 and A1 (%; table A1 gives .24 for Square on NT):

| row        | variant | clean | PGD-20 | AutoAttack | Square |
|------------|---------|-------|--------|------------|--------|
| RN18-NT    | default | 74.00 | 0.0    | 0.0        | 0.20   |
| RN18-AT-ES | at      | 56.50 | 20.40  | 19.60      | 22.86  |

AutoAttack rand (table A1): 0.0 and 19.88.

Ours: not yet run.

RN18-NT (sigma = .1) is `kap_cifar100.py:nt_sigma0.1`. Rice et al.'s public log has 52.7 / 28.2
(PGD-10) at its best and 53.8 / 21.9 at its end.
"""

from robust_jax.experiment.config import Config

from .eval.kap import noise_off, pgd
from .recipes import changes
from .recipes import kap as recipes

NT = recipes.cifar("cifar100", noise_off("cifar"))

VARIANTS = {
    "default": NT,
    "at": recipes.with_rice_optimizer(
        recipes.adversarially_trained(NT, pgd("cifar", 20), pgd("cifar", 10))
    ),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "standard_cifar100", variant)
