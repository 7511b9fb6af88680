"""Ensembles and randomised networks that the papers compare with, on scikit-learn's digits.

    python train.py configs/ensemble_digits.py        # independent members
    python train.py configs/ensemble_digits.py:adp    # others: dropout, rse

`default` and `adp` sum over members, as PARL does; LPD (`lpd_digits.py`) takes their mean.
A first look: seconds each, but for the attacks of `rse`: on one pass, as its authors do, and beside
it through and around its noise (`eval/rls.py:honest_one_draw` at eps = .1), minutes.

Ours, `rse`, all 355 test images (%, intervals of 5 points), no check flagged; the others: not yet
run. Ten steps of eps / 10, the RLS paper's, reach less far than FGSM's one.

| attack             | as the RLS paper judges | mean of two predictions |
|--------------------|-------------------------|-------------------------|
| none               | 92.39                   | 94.08                   |
| FGSM, one pass     | 53.80                   | 54.93                   |
| PGD-10, one pass   | 57.18                   | 56.34                   |
| FGSM, EOT 20       | -                       | 47.32                   |
| PGD-10, EOT 20     | -                       | 47.04                   |
| APGD, EOT 20       | -                       | 43.66                   |
| APGD, noise off    | -                       | 47.61                   |
| worst case of all  | 47.61                   | 32.68                   |
"""

import dataclasses

from robust_jax.evaluation.protocol import Selection
from robust_jax.experiment.config import Config
from robust_jax.methods import (
    AdaptiveDiversityPromoting,
    MonteCarloDropout,
    RandomSelfEnsemble,
    Standard,
)

from .eval.rls import honest_one_draw
from .recipes import changes
from .recipes import ensembles as recipes

NETWORK = recipes.digits_ensemble()
ALONE = NETWORK.member

VARIANTS = {
    "default": recipes.digits(Standard(network=NETWORK)),
    "dropout": recipes.digits(MonteCarloDropout(network=ALONE, rate=0.2)),
    "adp": recipes.digits(AdaptiveDiversityPromoting(network=NETWORK)),
    "rse": dataclasses.replace(
        recipes.digits(RandomSelfEnsemble(network=ALONE)),
        evaluation=dataclasses.replace(honest_one_draw(0.1), selection=Selection()),
    ),
}


def get_config(variant: str = "default") -> Config:
    """Returns the configuration of a variant."""
    return changes.named(VARIANTS[variant], "ensemble_digits", variant)
