"""PARL and its later objective on small networks and scikit-learn's digits, a first look.

    python train.py configs/parl_digits.py

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import PARL, ParameterPARL

from .recipes import changes
from .recipes import ensembles as recipes

NETWORK = recipes.digits_ensemble()

VARIANTS = {
    "default": recipes.digits(PARL(network=NETWORK, num_layers=3)),
    "parameters": recipes.digits(ParameterPARL(network=NETWORK, num_layers=3)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "parl_digits", variant)
