"""An experiment: a configuration that is trained in a work directory, and what is kept of it."""

from robust_jax.experiment.judging import as_model, judge
from robust_jax.experiment.run import fit, header, make_validator, overfits, validate
from robust_jax.experiment.seeds import is_done, is_trained, of_seeds
from robust_jax.experiment.start import init_variables
from robust_jax.experiment.state import restore, save

__all__ = [
    "as_model",
    "fit",
    "header",
    "init_variables",
    "is_done",
    "is_trained",
    "judge",
    "make_validator",
    "of_seeds",
    "overfits",
    "restore",
    "save",
    "validate",
]
