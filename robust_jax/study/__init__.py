"""Many defences trained and judged alike: what a study is, how it runs, its table and its page."""

from robust_jax.study.definition import CROWN, FRUGAL, PAPER, TRANSFER, Row, Study, in_ball

__all__ = ["CROWN", "FRUGAL", "PAPER", "TRANSFER", "Row", "Study", "in_ball"]
