r"""The plain ResNet-18 on ImageNet, 224 x 224: the KAP paper's baselines RN18-NT, RN18(WideX4)-AT.

    python train.py configs/standard_imagenet.py --data.num-workers 16                # NT
    python train.py configs/standard_imagenet.py:at --data.num-workers 16             # Fast-AT
    python train.py configs/standard_imagenet.py:widex4_at --data.num-workers 16
    python evaluate.py --checkpoint runs/standard_imagenet \
        --config configs/eval/kap.py:table2_imagenet

`--data.source.data-dir DIR` says where the prepared `imagenet2012` lies, where that is not TFDS's
default. For a folder of images write `Folder(DIR)` for `TFDS(...)` in `recipes/kap.py`.

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022, tables 2 and A2 (%):

| row           | variant   | clean | PGD-20          | AutoAttack     | Square |
|---------------|-----------|-------|-----------------|----------------|--------|
| RN18-NT       | default   | 68.68 | 0.0             | 0.0            | 2.80   |
| RN18-AT       | at        | 53.20 | 8.00 (A2 19.23) | 8.00 (A2 6.00) | 8.20   |
| RN18WideX4-AT | widex4_at | 62.00 | 27.81           | 11.80          | 14.10  |

AutoAttack rand (table A2): 0.0, 6.00, 11.60.

Ours: not yet run.

RN18-NT (sigma = .1) is `kap_imagenet.py:nt_sigma0.1`. `widex4`, the wide network trained normally,
is no row of the paper's. AT is Fast-AT in three phases, see `recipes/kap.py`.
"""

from robust_jax.experiment.config import Config

from .eval.kap import noise_off, pgd
from .recipes import changes
from .recipes import kap as recipes

NT = recipes.imagenet(noise_off("imagenet"))
WIDE = recipes.with_network(NT, recipes.imagenet_resnet18(width_multiplier=4.0))

VARIANTS = {
    "default": NT,
    "at": recipes.fast_adversarially_trained(NT, pgd("imagenet", 10)),
    "widex4": WIDE,
    "widex4_at": recipes.fast_adversarially_trained(WIDE, pgd("imagenet", 10)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "standard_imagenet", variant)
