"""BatchEnsemble on scikit-learn's digits, a first look.

    python train.py configs/batch_ensemble_digits.py

Ours: not yet run.
"""

import dataclasses

from robust_jax.experiment.config import Config
from robust_jax.methods import BatchEnsemble

from .recipes import changes
from .recipes import ensembles as recipes

NETWORK = recipes.digits_ensemble().member

FOUND = recipes.digits(BatchEnsemble(network=NETWORK, factor_std=0.5))

VARIANTS = {
    "default": dataclasses.replace(
        FOUND,
        optimizer=dataclasses.replace(FOUND.optimizer, learning_rate=0.2, undecayed=("r", "s")),
    )
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "batch_ensemble_digits", variant)
