"""A plain ensemble, and Monte-Carlo dropout, on scikit-learn's digits, a first look.

    python train.py configs/ensemble_digits.py

Ours: not yet run.
"""

from recipes import ensembles as recipes

from robust_jax.config import Config
from robust_jax.methods import MonteCarloDropout, Standard

NETWORK = recipes.digits_ensemble()

VARIANTS = {
    "default": recipes.digits(Standard(network=NETWORK)),
    "dropout": recipes.digits(MonteCarloDropout(network=NETWORK.member, rate=0.2)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return recipes.named(VARIANTS[variant], "ensemble_digits", variant)
