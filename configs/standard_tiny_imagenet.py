r"""The plain ResNet-18 on TinyImageNet, 128 x 128: the KAP paper's RN18-NT and RN18-AT-ES.

    python train.py configs/standard_tiny_imagenet.py --data.source.path DIR        # NT
    python train.py configs/standard_tiny_imagenet.py:at --data.source.path DIR     # AT-ES
    python evaluate.py --checkpoint runs/standard_tiny_imagenet \
        --config configs/eval/kap.py:table2_tiny_imagenet

DIR is the unpacked http://cs231n.stanford.edu/tiny-imagenet-200.zip, by default
data/tiny-imagenet-200. `--data.num-workers N` decodes in N processes.

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022, table 2 (%); table A2 has .12 under PGD and .02 under AutoAttack for NT, which has no noise;
AutoAttack rand .04 (NT) and 21.92 (AT):

| row        | variant | clean | PGD-20 | AutoAttack | Square |
|------------|---------|-------|--------|------------|--------|
| RN18-NT    | default | 58.90 | 0.00   | 0.00       | 3.30   |
| RN18-AT-ES | at      | 45.80 | 25.40  | 21.60      | 29.10  |

Ours: not yet run.

RN18-NT (sigma = .1) is `kap_tiny_imagenet.py:nt_sigma0.1`. AT-ES: PGD-10 (the paper), eps 4/255 and
step 2/255 (the code), the plain recipe's schedule.
"""

from robust_jax.experiment.config import Config

from .eval.kap import noise_off, pgd
from .recipes import changes
from .recipes import kap as recipes

NT = recipes.tiny_imagenet(noise_off("tiny_imagenet"))

VARIANTS = {
    "default": NT,
    "at": recipes.adversarially_trained(NT, pgd("tiny_imagenet", 10), pgd("tiny_imagenet", 10)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "standard_tiny_imagenet", variant)
