"""Random layer sampling on scikit-learn's digits, a first look.

    python train.py configs/rls_digits.py

Ours: not yet run.
"""

import dataclasses

from robust_jax.experiment.config import Config
from robust_jax.methods import RandomLayerSampling

from .recipes import changes
from .recipes import ensembles as recipes

NETWORK = recipes.digits_ensemble().member

FOUND = recipes.digits(RandomLayerSampling(network=NETWORK, num_samples=4))

VARIANTS = {
    "default": dataclasses.replace(
        FOUND, optimizer=dataclasses.replace(FOUND.optimizer, learning_rate=0.5)
    )
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "rls_digits", variant)
