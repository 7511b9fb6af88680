"""Training: the pieces that train.py loops over."""

from robust_jax.training.config import (
    AdversarialTraining,
    FreeAdversarialTraining,
    OverfittingMonitor,
    Phase,
    TrainingConfig,
)
from robust_jax.training.loop import batches, check_finite, fetch
from robust_jax.training.state import TrainState, init_state
from robust_jax.training.step import Metrics, TrainStep, make_train_step, perturb_weights

__all__ = [
    "AdversarialTraining",
    "FreeAdversarialTraining",
    "Metrics",
    "OverfittingMonitor",
    "Phase",
    "TrainState",
    "TrainStep",
    "TrainingConfig",
    "batches",
    "check_finite",
    "fetch",
    "init_state",
    "make_train_step",
    "perturb_weights",
]
