"""What is kept of one example under one attack."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Decision(NamedTuple):
    """What one judge says of an example.

    Attributes:
        prediction: the class predicted; -1 where a score is NaN.
        correct: is that the label?
        top5: classes of the largest scores.
        share_correct: share of the judge's draws of which each alone is right.
        share_rejudged: share of its judgements that are right, where its draws are enough for more
            than the one that counts. None where formats before 3 judged, a batch by one key.
    """

    prediction: int
    correct: bool
    top5: list[int]
    share_correct: float
    share_rejudged: float | None = None


class Record(NamedTuple):
    """One example under one attack, a line of records/NAME.jsonl.

    Attributes:
        index: row of the example in its split.
        label: its class.
        linf: largest change of a pixel.
        l2: Euclidean norm of the change.
        view_fooled: does what the attack saw have it wrong? False on clean images.
        decisions: by judge.
        started: False where the attack begins at other images and found none to begin at.
        passes: forward and backward passes of the attack, as `attacks.Passes` counts them, the
            one part of a record that depends on which images were attacked together. None of
            clean images, and of records of formats before 5.
        l1: sum of the absolute changes of all values; None in formats before 6.
        l0: pixels that change, whatever of their channels; None in formats before 6.
    """

    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (a tuple's own)
    label: int
    linf: float
    l2: float
    view_fooled: bool
    decisions: dict[str, Decision]
    started: bool = True
    passes: list[int] | None = None
    l1: float | None = None
    l0: int | None = None

    def headline(self, judges: Iterable[str] = ()) -> Decision:
        """Returns the decision of the first of the protocol's judges.

        Args:
            judges: the protocol's, in its order, which decisions have not; who has one decision
                alone, as the model that an attack is transferred from, needs none.
        """
        for judge in judges:
            if judge in self.decisions:
                return self.decisions[judge]
        (only,) = self.decisions.values()
        return only

    @property
    def right_somewhere(self) -> bool:
        """Returns whether any judge has it right."""
        return any(decision.correct for decision in self.decisions.values())

    @property
    def right_in_a_draw(self) -> bool:
        """Returns whether any judge has it right, or one of its draws alone."""
        return self.right_somewhere or any(one.share_correct for one in self.decisions.values())

    def left_alone(self) -> "Record":
        """Returns what counts of a clean example that is not attacked: it is not robust.

        Every judge has it wrong, in every draw: but earlier versions did not look at draws.
        """
        decisions = {
            judge: one._replace(share_correct=0.0) for judge, one in self.decisions.items()
        }
        return self._replace(decisions=decisions)

    def in_a_larger_ball(self, found: "Record | None", judges: Iterable[str]) -> "Record":
        """Returns what counts of the example in a ball around this one's.

        A judge that has it wrong here has it wrong there: the image lies in both balls. Of its
        draws those on the worse of the two count. The change is that of the image which the
        first judge's verdict is of.

        Args:
            found: of an attack in that ball; None where none was made.
            judges: the protocol's, in its order.
        """
        if found is None:
            return self._replace(passes=None)

        def counts(judge: str, here: Decision) -> Decision:
            there = found.decisions[judge]
            worse = min(here.share_correct, there.share_correct)
            return there if here.correct else here._replace(share_correct=worse)

        decisions = {judge: counts(judge, here) for judge, here in self.decisions.items()}
        whole = found._replace(decisions=decisions)
        if self.headline(judges).correct:
            return whole
        return whole._replace(linf=self.linf, l2=self.l2, l1=self.l1, l0=self.l0)

    def to_json(self) -> dict[str, object]:
        """Returns the line."""
        decisions = {judge: decision._asdict() for judge, decision in self.decisions.items()}
        return {**self._asdict(), "decisions": decisions}

    @classmethod
    def from_json(cls, line: Mapping[str, object]) -> "Record":
        """Returns the record of a line.

        Raises:
            AttributeError, KeyError, TypeError: it is the line of something else.
        """
        stored = line["decisions"]
        if not isinstance(stored, dict) or not line.keys() <= set(cls._fields):
            raise TypeError(f"{sorted(line)} are not its fields")
        decisions = {judge: Decision(**one) for judge, one in stored.items()}
        fields = {**cls._field_defaults, **line, "decisions": decisions}
        return cls._make(fields[name] for name in cls._fields)


Records = dict[str, dict[int, Record]]
"""By attack (and CLEAN), by row."""
