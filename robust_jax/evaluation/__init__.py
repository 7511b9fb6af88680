"""Who judges: protocols, records, certificates, measures, sanity checks, reports."""

from robust_jax.evaluation.harness import Evaluator, evaluate, make_evaluator

__all__ = ["Evaluator", "evaluate", "make_evaluator"]
