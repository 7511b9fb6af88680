"""Training: the pieces that train.py loops over."""

from robust_jax.training.run import batches, fetch, fit, header, make_validator, overfits, validate
from robust_jax.training.state import TrainState, init_state, init_variables, restore, save
from robust_jax.training.step import Metrics, make_train_step, perturb_weights

__all__ = [
    "Metrics",
    "TrainState",
    "batches",
    "fetch",
    "fit",
    "header",
    "init_state",
    "init_variables",
    "make_train_step",
    "make_validator",
    "overfits",
    "perturb_weights",
    "restore",
    "save",
    "validate",
]
