"""An experiment: a configuration that is trained in a work directory, and what is kept of it."""

from robust_jax.experiment.run import fit, header, make_validator, overfits, validate
from robust_jax.experiment.state import init_variables, restore, save

__all__ = [
    "fit",
    "header",
    "init_variables",
    "make_validator",
    "overfits",
    "restore",
    "save",
    "validate",
]
