"""Ranges of fields: what passes, what is refused, and in which words."""

import dataclasses
import math

import pytest

from robust_jax import checks


@dataclasses.dataclass(frozen=True)
class Config:
    eps: float = 0.5
    steps: int | None = None
    shares: tuple[float, ...] = (0.0, 1.0)
    kind: str = "sum"


def test_what_is_in_range_passes():
    checks.at_least(Config(), 0.5, "eps", "steps")
    checks.above(Config(), 0.4, "eps")
    checks.shares(Config(shares=()), "eps", "shares")
    checks.one_of(Config(), "kind", ("sum", "mean"))


@pytest.mark.parametrize(
    ("check", "config", "message"),
    [
        (lambda c: checks.at_least(c, 1, "eps"), Config(), "Expected eps=0.5 >= 1."),
        (lambda c: checks.at_least(c, 0, "eps"), Config(eps=math.nan), "Expected eps=nan >= 0."),
        (lambda c: checks.at_least(c, 1, "steps"), Config(steps=0), "Expected steps=0 >= 1."),
        (lambda c: checks.above(c, 0.5, "eps"), Config(), "Expected eps=0.5 > 0.5."),
        (lambda c: checks.above(c, 0, "shares"), Config(), r"Expected shares=\(0.0, 1.0\) > 0."),
        (lambda c: checks.shares(c, "eps"), Config(eps=1.5), "Expected 0 <= eps=1.5 <= 1."),
        (lambda c: checks.one_of(c, "kind", ("a", "b")), Config(), "kind='sum' to be one of"),
        # None is a value of a field that may be None, and of no other.
        (lambda c: checks.at_least(c, 0, "eps"), Config(eps=None), "Expected eps=None >= 0."),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_is_named(check, config, message):
    with pytest.raises(ValueError, match=message):
        check(config)


@pytest.mark.parametrize(
    "names",
    [
        ["a/b"], ["a\\b"], ["a@b"], [""], [" a"], [".a"], ["a."], ["a\nb"], ["a\0b"], ["ä" * 51],
        ["a:b"], ["<=8"], ["NUL"], ["PGD", "pgd"], ["\u00e4", "a\u0308"],
    ],
)  # fmt: skip
def test_what_names_no_file_on_every_system(names):
    checks.file_names(["eps .1, linf", "ä" * 50, "straße", "strasse"])
    with pytest.raises(
        ValueError, match=r"Expected (name=.* to name a file|.* more than capitals)"
    ):
        checks.file_names(names)
