"""The report of an evaluation: one self-contained page that people look at."""

from robust_jax.evaluation.report.write import write

__all__ = ["write"]
