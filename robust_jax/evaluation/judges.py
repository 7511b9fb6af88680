"""Judges: by which rule an image counts as right. A judge is a column of an evaluation's table."""

import dataclasses
from typing import Literal

PAPER = "paper"
HONEST = "honest"

REDUCED_DRAWS = 4
"""Draws of a fixed predictor, and of an attack's EOT, at the small budget."""

Counting = Literal["clean_and_attacked", "attacked", "given_clean_correct"]


@dataclasses.dataclass(frozen=True)
class Judge:
    """A rule that says what a model decides, and which images count: a column of the table.

    Every draw of a random method belongs to a row of the dataset: row i is decided by the draws
    that the evaluation's seed and i give, clean and under every attack, and no attack sees them.

    Attributes:
        view: view of the method whose largest logit decides; None for the deployed rule; "members"
            for one member of an ensemble, drawn at random for each row (a randomised ensemble),
            with rule="paper"; its draws are all members.
        rule: decisions of a stochastic method. "honest": the mean of `num_draws` predictions of
            each row's own draws. "paper": one such prediction. "fixed": the mean of `num_draws`
            predictions under keys that all rows share (an averaged predictor, deterministic; its
            interval is that of these draws). A deterministic method has one prediction whichever.
        num_draws: predictions averaged by "honest" and "fixed".
        adaptive: does the column count the adaptive attacks? False for a paper's own column, which
            knows the paper's attacks alone.
        counts: what the column counts under attack. "clean_and_attacked": images right before and
            after, of all images (robust accuracy, as AutoAttack prints it). "attacked": images
            right after the attack, of all images, also those that were wrong before (plain
            accuracy on adversarial images, as CleverHans prints it). "given_clean_correct": images
            right after, of those right before.

    Raises:
        ValueError: less than one draw, or one member with another rule than "paper".

    Example:
        >>> from robust_jax.evaluation import Judge
        >>> deployed = Judge()  # the mean of ten draws of the deployed rule
        >>> oblivious = Judge(rule="paper", adaptive=False)  # one draw, on the paper's attacks
        >>> [judge.num_deciding for judge in (deployed, oblivious)]
        [10, 1]
        >>> Judge(view="members")
        Traceback (most recent call last):
            ...
        ValueError: Expected rule='honest' to be 'paper' with view='members': one member ...
    """

    view: str | None = None
    rule: Literal["honest", "paper", "fixed"] = "honest"
    num_draws: int = 10
    adaptive: bool = True
    counts: Counting = "clean_and_attacked"

    def __post_init__(self) -> None:
        if self.num_draws < 1:
            raise ValueError(f"Expected num_draws={self.num_draws} >= 1.")
        if self.of_a_member and self.rule != "paper":
            raise ValueError(
                f"Expected rule={self.rule!r} to be 'paper' with view='members': one member "
                "decides; of all of them the vote is view=None."
            )

    @property
    def of_a_member(self) -> bool:
        """Returns whether one member at random decides, whose draws are all members."""
        return self.view == "members"

    @property
    def num_deciding(self) -> int:
        """Returns how many predictions of a random method decide together."""
        return 1 if self.rule == "paper" else self.num_draws

    @property
    def is_deployed(self) -> bool:
        """Returns whether its draws are those of what is deployed, to which images are submitted.

        Other views are not, and the fixed predictor says the same at every submission.
        """
        return self.view is None and self.rule != "fixed"

    def num_drawn(self, num_submissions: int) -> int:
        """Returns how many predictions of a random method are drawn, those that decide first."""
        return max(self.num_deciding, num_submissions if self.is_deployed else 0)

    def reduced(self) -> "Judge":
        """Returns the judge at the small budget: a fixed predictor's draws, as they are attacked.

        Other judges stay: their draws are cheap beside the attacks.
        """
        if self.rule != "fixed":
            return self
        return dataclasses.replace(self, num_draws=min(self.num_draws, REDUCED_DRAWS))


def side_by_side(paper: Judge | None = None, honest: Judge | None = None) -> dict[str, Judge]:
    """Returns the two columns: the paper's rule on its own attacks, the honest one on all.

    Args:
        paper: the paper's rule; None for one draw of the deployed rule.
        honest: None for the mean of ten draws of the deployed rule.

    Example:
        >>> from robust_jax.evaluation.protocol import side_by_side
        >>> {name: (judge.rule, judge.adaptive) for name, judge in side_by_side().items()}
        {'paper': ('paper', False), 'honest': ('honest', True)}
    """
    paper = dataclasses.replace(paper or Judge(rule="paper"), adaptive=False)
    return {PAPER: paper, HONEST: honest or Judge()}
