"""Who judges: protocols, records, certificates, measures, sanity checks, reports."""

from robust_jax.evaluation.harness import Evaluator, evaluate, make_evaluator
from robust_jax.evaluation.model import Model
from robust_jax.evaluation.presets import preset
from robust_jax.evaluation.protocol import Adversary, AttackRun, Evaluation, Judge, Selection
from robust_jax.evaluation.run import Result, run

__all__ = [
    "Adversary",
    "AttackRun",
    "Evaluation",
    "Evaluator",
    "Judge",
    "Model",
    "Result",
    "Selection",
    "evaluate",
    "make_evaluator",
    "preset",
    "run",
]
