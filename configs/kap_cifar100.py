"""KAP on CIFAR-100: ResNet-18 with kernel average pooling.

    python train.py configs/kap_cifar100.py               # RN18-KAP-NT (sigma = .1, K = 3)
    python train.py configs/kap_cifar100.py:sigma0.2
    python evaluate.py --checkpoint runs/kap_cifar100 --config configs/eval/kap.py:table1

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022 (%). Table 1, attacked without noise; table A1, with noise (AutoAttack
rand: EOT 20, in brackets 50):

| row                  | variant     | clean | PGD-20 | AutoAttack                | Square |
|----------------------|-------------|-------|--------|---------------------------|--------|
| RN18-NT (.1)         | nt_sigma0.1 | 61.60 | 6.00   | 5.20                      | 33.70  |
| RN18-KAP-NT (.1)     | default     | 48.20 | 33.9   | 15.70                     | 17.40  |
| RN18-KAP-NT (.2)     | sigma0.2    | 38.60 | 31.9   | 17.60                     | 27.40  |
| RN18-NT (.1), A1     | nt_sigma0.1 | 61.60 | 5.23   | 4.06, rand 4.30 (4.40)    | 49.46  |
| RN18-KAP-NT (.1), A1 | default     | 48.20 | 36.08  | 23.70, rand 30.52 (28.20) | 29.80  |
| RN18-KAP-NT (.2), A1 | sigma0.2    | 38.60 | 31.49  | 23.36, rand 31.20 (31.00) | 27.40  |

Ours: not yet run.

RN18-NT and RN18-AT-ES: `standard_cifar100.py`.
"""

from robust_jax.experiment.config import Config

from .eval.kap import noise_off
from .recipes import changes
from .recipes import kap as recipes

NT = recipes.cifar("cifar100", noise_off("cifar"))

VARIANTS = {
    "default": recipes.with_kap(NT),
    "sigma0.2": recipes.with_kap(NT, sigma=0.2),
    "nt_sigma0.1": recipes.with_kap(NT, pool=None),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "kap_cifar100", variant)
