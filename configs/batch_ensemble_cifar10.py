"""BatchEnsemble on CIFAR-10: the WRN-16-4 (BE) that the KAP paper compares with.

    python train.py configs/batch_ensemble_cifar10.py
    python evaluate.py --checkpoint runs/batch_ensemble_cifar10 --config configs/eval/kap.py:table1

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022, table 1 (%): clean 95.60, PGD-20 7.90, AutoAttack 7.80, Square 21.00. Its settings are not
given; these are of edward2's CIFAR script (WRN-28-10 there): 4 members, factors normal with mean 1
and standard deviation .5, rate .1 with Nesterov's momentum, which grows from 0 over the first epoch
and is multiplied by .2 at 80, 160 and 180 of 200 epochs scaled to 250; L2 of 3e-4 on all but the
factors (r and s), to which that script's layers give no regulariser. Images as in KAP's other rows:
not normalised, crops with 4 pixels of padding (that script normalises, and pads by 2). `signs`
starts the factors at random signs (BatchEnsemble paper).

Ours: not yet run.
"""

import dataclasses

from robust_jax.experiment.config import Config
from robust_jax.methods import BatchEnsemble
from robust_jax.models import WideResNetConfig
from robust_jax.training import Phase, TrainingConfig
from robust_jax.training.optimizers import MultiStep

from .eval.kap import noise_off
from .recipes import changes
from .recipes import kap as recipes


def config(factor_std: float | None) -> Config:
    """Returns BatchEnsemble with factors of this initial standard deviation; None for signs."""
    found = dataclasses.replace(
        recipes.cifar("cifar10", noise_off("cifar")),
        method=BatchEnsemble(network=WideResNetConfig(16, 4), factor_std=factor_std),
        training=TrainingConfig(phases=(Phase(epochs=250.0, batch_size=128),)),
    )
    return changes.with_optimizer(
        found,
        nesterov=True,
        weight_decay=6e-4,  # Keras' l2(3e-4)
        undecayed=("r", "s"),
        schedule=MultiStep(epochs=(100.0, 200.0, 225.0), factor=0.2, warmup=1.0),
    )


VARIANTS = {"default": config(0.5), "signs": config(None)}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "batch_ensemble_cifar10", variant)
