"""What a sanity check finds, and when a difference between two attacks is more than chance."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

LEVEL = 0.05
"""Probability, if two attacks were equally strong, that the weaker is taken for the stronger."""

Status = Literal["passed", "flag", "note", "not run"]


class Finding(NamedTuple):
    """What one check says of an evaluation.

    Attributes:
        check: its name.
        status: "flag": the numbers are not to be trusted as they are; "note": to be kept in mind;
            "passed"; "not run": nothing in this evaluation to check, or it was switched off.
        text: what was found, in plain words.
        next_step: what to do about it; empty where there is nothing to do.
    """

    check: str
    status: Status
    text: str
    next_step: str = ""


def outranks(
    weaker: Iterable[bool], stronger: Iterable[bool], *, num_tests: int = 1
) -> tuple[bool, int]:
    """Returns whether the attack thought weaker beats the one thought stronger beyond chance.

    Sign test on the examples that stand under exactly one of them, one-sided, at `LEVEL`.

    Args:
        weaker: does an example stand under it?
        stronger: the same examples under the other.
        num_tests: how many such tests one finding makes; they share the level (Bonferroni).

    Returns:
        The verdict, and how many examples fall to the weaker attack alone.
    """
    pairs = list(zip(weaker, stronger, strict=True))
    only_weaker = sum(second and not first for first, second in pairs)
    only_stronger = sum(first and not second for first, second in pairs)
    total = only_weaker + only_stronger
    if total == 0:
        return False, 0
    from scipy import stats  # a second of the import of this package

    chance = stats.binomtest(only_weaker, total, 0.5, alternative="greater").pvalue
    return bool(chance < LEVEL / num_tests), only_weaker
