"""DVERGE on CIFAR-10: three ResNet-20 that distill features for one another, PARL's ENS_DVERGE.

    python train.py configs/dverge_cifar10.py:baseline   # the plain ensemble that it starts from
    python train.py configs/dverge_cifar10.py            # reads runs/dverge_cifar10-baseline
    python train.py configs/dverge_cifar10.py:scratch    # from fresh weights

`--data.source.data-dir DIR` says where the prepared dataset lies, where that is not TFDS's default;
`--training.init-from DIR` names another plain ensemble.

Yang et al., "DVERGE: Diversifying Vulnerabilities for Enhanced Robust Generation of Ensembles",
NeurIPS 2020. PARL's paper, table 1, eps = .07 (%): clean 91.73, FGSM 28.88, BIM 11.78, MIM 10.55,
PGD 9.68; that paper used the authors' repository, whose recipe this is. The default starts from a
trained plain ensemble, as the repository's does.

`layer20` distills the logits alone, at every epoch.

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import DVERGE, MethodConfig, Standard
from robust_jax.models import EnsembleConfig, ResNetConfig

from .eval.parl import curves
from .recipes import baselines, changes

NETWORK = EnsembleConfig(ResNetConfig(depth=20), 3)
BASELINE = "runs/dverge_cifar10-baseline"


def config(method: MethodConfig, init_from: str | None) -> Config:
    """Returns a training by the repository's recipe."""
    return baselines.cifar10(method, baselines.SGD, curves(None, (0.07,)), init_from=init_from)


FIELDS = {
    "network": NETWORK,
    "normalization": baselines.NORMALIZATION,
    "vote": "majority_mean_probability",
}

VARIANTS = {
    "default": config(DVERGE(**FIELDS), BASELINE),
    "scratch": config(DVERGE(**FIELDS), None),
    "layer20": config(DVERGE(**FIELDS, layer=20), BASELINE),
    "baseline": config(Standard(**FIELDS), None),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "dverge_cifar10", variant)
