r"""KAP on TinyImageNet, 128 x 128: ResNet-18 with kernel average pooling.

    python train.py configs/kap_tiny_imagenet.py --data.source.path DIR
    python evaluate.py --checkpoint runs/kap_tiny_imagenet \
        --config configs/eval/kap.py:table2_tiny_imagenet

DIR is the unpacked http://cs231n.stanford.edu/tiny-imagenet-200.zip, by default
data/tiny-imagenet-200. `--data.num-workers N` decodes in N processes.

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022 (%). Table 2, attacked without noise; table A2, with noise (AutoAttack rand: EOT 20):

| row                  | variant     | clean | PGD-20 | AutoAttack        | Square |
|----------------------|-------------|-------|--------|-------------------|--------|
| RN18-NT (.1)         | nt_sigma0.1 | 56.50 | 1.90   | 1.80              | 35.50  |
| RN18-KAP-NT (.1)     | default     | 39.60 | 25.70  | 16.5              | 18.70  |
| RN18-NT (.1), A2     | nt_sigma0.1 | 56.50 | 0.26   | 0.16, rand 0.38   |        |
| RN18-KAP-NT (.1), A2 | default     | 39.60 | 27.24  | 20.78, rand 22.50 |        |

Ours: not yet run.

RN18-NT and RN18-AT-ES: `standard_tiny_imagenet.py`.
"""

from robust_jax.experiment.config import Config

from .eval.kap import noise_off
from .recipes import changes
from .recipes import kap as recipes

NT = recipes.tiny_imagenet(noise_off("tiny_imagenet"))

VARIANTS = {
    "default": recipes.with_kap(NT),
    "nt_sigma0.1": recipes.with_kap(NT, pool=None),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "kap_tiny_imagenet", variant)
