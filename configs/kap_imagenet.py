"""KAP on ImageNet, 224 x 224: ResNet-18 and RN18WideX4 with kernel average pooling.

    python train.py configs/kap_imagenet.py --data.num-workers 16
    python train.py configs/kap_imagenet.py:widex4 --data.num-workers 16
    python evaluate.py --checkpoint runs/kap_imagenet --config configs/eval/kap.py:table2_imagenet

`--data.source.data-dir DIR` says where the prepared `imagenet2012` lies, where that is not TFDS's
default. For a folder of images write `Folder(DIR)` for `TFDS(...)` in `recipes/kap.py`.

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022 (%). Table 2, attacked without noise; table A2, with noise (AutoAttack rand: EOT 20):

| row                        | variant     | clean | PGD-20 | AutoAttack        | Square |
|----------------------------|-------------|-------|--------|-------------------|--------|
| RN18-NT (.1)               | nt_sigma0.1 | 51.20 | 0.19   | 0.20              | 6.70   |
| RN18-KAP-NT (.1)           | default     | 9.60  | 6.05   | 2.85              | 2.95   |
| RN18WideX4-KAP-NT (.1)     | widex4      | 38.00 | 31.49  | 15.3              | 14.40  |
| RN18-NT (.1), A2           | nt_sigma0.1 | 51.20 | 0.19   | 0.20, rand 0.0    |        |
| RN18-KAP-NT (.1), A2       | default     | 9.60  | 9.14   | 3.00, rand 4.80   |        |
| RN18WideX4-KAP-NT (.1), A2 | widex4      | 38.00 | 30.91  | 21.40, rand 31.00 |        |

Ours: not yet run.

RN18-NT, RN18-AT and RN18WideX4-AT: `standard_imagenet.py`. `max` (kernel max pooling) is the KMP of
figure 3, which shows its first layer and has no numbers. Weight decay of the KAP rows 1e-5 (the
paper, section 4.3), of NT 1e-4 (the code).
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import KernelPool

from .eval.kap import noise_off
from .recipes import changes
from .recipes import kap as recipes

NT = recipes.imagenet(noise_off("imagenet"))
KAP = changes.with_optimizer(recipes.with_kap(NT), weight_decay=1e-5)

VARIANTS = {
    "default": KAP,
    "nt_sigma0.1": recipes.with_kap(NT, pool=None),
    "max": changes.with_method(KAP, pool=KernelPool(kind="max")),
    "widex4": recipes.with_network(KAP, recipes.imagenet_resnet18(width_multiplier=4.0)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "kap_imagenet", variant)
