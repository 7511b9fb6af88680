"""LPD and PDD on small networks and scikit-learn's digits, a first look.

    python train.py configs/lpd_digits.py

Ours: not yet run.
"""

from robust_jax.experiment.config import Config
from robust_jax.methods import PriorityDropout, PriorityRates

from .recipes import changes
from .recipes import ensembles as recipes

NETWORK = recipes.digits_ensemble()

VARIANTS = {
    "default": recipes.digits(PriorityDropout(network=NETWORK)),
    "pdd": recipes.digits(PriorityDropout(network=NETWORK, rates=PriorityRates(), deg_weight=0.01)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "lpd_digits", variant)
