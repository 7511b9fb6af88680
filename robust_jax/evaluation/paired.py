"""Two models on the same images: is one better, or luckier?"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from robust_jax.evaluation import records
from robust_jax.evaluation.protocol import CLEAN, AttackRun, Evaluation
from robust_jax.evaluation.record import Record


class Asked(NamedTuple):
    """What was asked of a model.

    Attributes:
        evaluation: the protocol.
        sources: fingerprints of the networks that attacks are transferred from, by name.
    """

    evaluation: Evaluation
    sources: Mapping[str, str]

    def chain(self, name: str | None) -> list[tuple[AttackRun, list[str | None]]]:
        """Returns the attacks that the records of one are of, each with whom it is found on."""
        run = None if name is None else self.evaluation.attacks.get(name)
        if run is None:
            return []
        whom = [self.sources.get(source) for source in run.sources]
        return [*self.chain(run.after), (run, whom)]


class Pair(NamedTuple):
    """An attack on two models, image by image.

    Attributes:
        attack: its row, "clean" without one.
        num_images: which both were asked.
        both: right for both, before and after.
        only_first: right for the first alone.
        only_second: right for the second alone.
        p_value: of McNemar's exact test: how often a difference as large would come of two models
            that are equally good, whose disagreements fall to either side alike.
    """

    attack: str
    num_images: int
    both: int
    only_first: int
    only_second: int
    p_value: float

    @property
    def neither(self) -> int:
        """Returns how many are wrong for both."""
        return self.num_images - self.both - self.only_first - self.only_second


def compare(
    first: records.Records,
    second: records.Records,
    *,
    judges: tuple[str, str],
    attacks: Collection[str] | None = None,
) -> list[Pair]:
    """Returns a pair for the clean images and for each attack of a name that both have.

    Args:
        first: records of a model, of all images, as `evaluate` and `read_evaluated` give them.
        second: of the other, on the same images, under attacks of the same settings.
        judges: whose word counts, of each.
        attacks: rows that may be paired, beside the clean one; None for all.

    Raises:
        ValueError: other rows of the dataset, or other labels.

    References:
        McNemar, "Note on the sampling error of the difference between correlated proportions or
        percentages", Psychometrika 12, 1947; the exact test is that of signs.
    """
    labels = [{row: one.label for row, one in found[CLEAN].items()} for found in (first, second)]
    if labels[0] != labels[1]:
        raise ValueError("Expected both evaluations to be of the same images, in rows and labels.")
    shared = [name for name in first
              if name in second and (attacks is None or name in (CLEAN, *attacks))]  # fmt: skip
    partial = [name for name in shared for found in (first, second)
               if found[name].keys() != found[CLEAN].keys()]  # fmt: skip
    if partial:
        raise ValueError(f"Expected records of all images under {partial[0]!r}: `read_evaluated`.")
    return [
        _pair(name, _right(first, name, judges[0]), _right(second, name, judges[1]))
        for name in shared
    ]


def _right(found: records.Records, attack: str, judge: str) -> dict[int, bool]:
    """Returns by row whether an image is right before and after."""

    def stands(record: Record) -> bool:
        return record.decisions[judge].correct

    clean: Mapping[int, Record] = found[CLEAN]
    return {row: stands(one) and stands(clean[row]) for row, one in found[attack].items()}


def _pair(name: str, first: dict[int, bool], second: dict[int, bool]) -> Pair:
    from scipy import stats

    only_first = sum(right and not second[row] for row, right in first.items())
    only_second = sum(right and not first[row] for row, right in second.items())
    both = sum(right and second[row] for row, right in first.items())
    differ = only_first + only_second
    p_value = stats.binomtest(only_first, differ).pvalue if differ else 1.0
    return Pair(name, len(first), both, only_first, only_second, float(p_value))


def alike(first: Asked, second: Asked) -> list[str]:
    """Returns the names of attacks that are the same, as are those that they go on from.

    Transferred examples are those of the same networks. Seeds may differ: an attack's start is a
    draw of one attack.
    """
    asked = [one.evaluation for one in (first, second)]
    precisions, labels = {one.precision for one in asked}, {one.adversary.labels for one in asked}
    if len(precisions) > 1 or len(labels) > 1:
        return []
    return [name for name in first.evaluation.attacks if first.chain(name) == second.chain(name)]
