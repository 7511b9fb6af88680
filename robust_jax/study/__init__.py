"""Many defences trained and judged alike: what a study is, how it runs, its table and its page."""

from robust_jax.study.definition import FRUGAL, PAPER, Row, Study

__all__ = ["FRUGAL", "PAPER", "Row", "Study"]
