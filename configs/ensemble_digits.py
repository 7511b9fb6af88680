"""Ensembles and randomised networks that the papers compare with, on scikit-learn's digits.

    python train.py configs/ensemble_digits.py          # independent members
    python train.py configs/ensemble_digits.py:dverge

A first look: seconds each. DVERGE starts from scratch here.

Ours: not yet run.
"""

from recipes import ensembles as recipes

from robust_jax.config import Config
from robust_jax.methods import (
    DVERGE,
    AdaptiveDiversityPromoting,
    GradDiv,
    GradientAlignment,
    MonteCarloDropout,
    RandomSelfEnsemble,
    Standard,
    StochasticActivationPruning,
    TransferabilityReducedSmooth,
)

NETWORK = recipes.digits_ensemble()
ALONE = NETWORK.member

VARIANTS = {
    "default": recipes.digits(Standard(network=NETWORK)),
    "dropout": recipes.digits(MonteCarloDropout(network=ALONE, rate=0.2)),
    "adp": recipes.digits(AdaptiveDiversityPromoting(network=NETWORK)),
    "gal": recipes.digits(GradientAlignment(network=NETWORK)),
    "deg": recipes.digits(
        GradientAlignment(network=NETWORK, coherence="sum", weight=0.01, input_sigma=0.0)
    ),
    "dverge": recipes.digits(DVERGE(network=NETWORK)),
    "trs": recipes.digits(TransferabilityReducedSmooth(network=NETWORK, num_epochs=15)),
    "grad_div": recipes.digits(GradDiv(network=ALONE)),
    "rse": recipes.digits(RandomSelfEnsemble(network=ALONE)),
    "sap": recipes.digits(StochasticActivationPruning(network=ALONE, num_draws=10)),
    "gaussian": recipes.digits(Standard(network=ALONE, input_sigma=0.25)),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return recipes.named(VARIANTS[variant], "ensemble_digits", variant)
