"""Random self-ensemble (RSE) on CIFAR-10: a VGG-16 with noise before every convolution.

    python train.py configs/rse_cifar10.py

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default.

Liu et al., "Towards Robust Neural Networks via Random Self-ensemble", ECCV 2018; recipe of the
authors' later code (recipes/baselines.py). The row of the RLS paper's tables 3 and 5 is a ResNet-50
with that paper's training, `rls_cifar10.py:rse`.

`finetune`: a short training from a public plain ensemble of three ResNet-20,
`--training.init-from DIR` (see recipes/ensembles.py).

The attacks are RLS's of table 2: on one fresh pass at every step, judged by the mean of ten passes.

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import RandomSelfEnsemble

from .recipes import baselines, changes, ensembles, rls

VARIANTS = {
    "default": baselines.cifar10(
        RandomSelfEnsemble(network=rls.VGG16),
        baselines.RSE_OPTIMIZER,
        rls.evaluation("cifar10", "vgg16", view="one_draw"),
    ),
    "finetune": ensembles.finetuned(RandomSelfEnsemble()),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "rse_cifar10", variant)
