"""The report of an evaluation: one self-contained page that people look at, and a table."""

from robust_jax.evaluation.report.write import Pictures, pictures, write

__all__ = ["Pictures", "pictures", "write"]
