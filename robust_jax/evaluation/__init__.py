"""Who judges: protocols, records, certificates, measures, sanity checks, reports."""

from robust_jax.evaluation.harness import Evaluator, evaluate, make_evaluator
from robust_jax.evaluation.model import Model
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Judge
from robust_jax.evaluation.run import Result, run

__all__ = [
    "AttackRun",
    "Evaluation",
    "Evaluator",
    "Judge",
    "Model",
    "Result",
    "evaluate",
    "make_evaluator",
    "run",
]
