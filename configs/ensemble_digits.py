"""Ensembles and randomised networks that the papers compare with, on scikit-learn's digits.

    python train.py configs/ensemble_digits.py        # independent members
    python train.py configs/ensemble_digits.py:adp    # others: dropout, rse

A first look: seconds each.

Ours: not yet run.
"""

from recipes import ensembles as recipes

from robust_jax.config import Config
from robust_jax.methods import (
    AdaptiveDiversityPromoting,
    MonteCarloDropout,
    RandomSelfEnsemble,
    Standard,
)

NETWORK = recipes.digits_ensemble()
ALONE = NETWORK.member

VARIANTS = {
    "default": recipes.digits(Standard(network=NETWORK)),
    "dropout": recipes.digits(MonteCarloDropout(network=ALONE, rate=0.2)),
    "adp": recipes.digits(AdaptiveDiversityPromoting(network=NETWORK)),
    "rse": recipes.digits(RandomSelfEnsemble(network=ALONE)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return recipes.named(VARIANTS[variant], "ensemble_digits", variant)
