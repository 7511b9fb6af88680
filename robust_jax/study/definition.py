"""What a study is: the variants of a configuration file that stand in one table."""

import dataclasses

from robust_jax import checks
from robust_jax.attacks import ThreatModel
from robust_jax.evaluation.protocol import HONEST, PAPER

__all__ = ["CROWN", "FRUGAL", "HONEST", "PAPER", "TRANSFER", "Row", "Study", "in_ball"]

CROWN = "CROWN"
FRUGAL = "frugal"
TRANSFER = "transfer"
"""Names of the certificate by linear bounds, of the suite of few passes, and of what is transferred
from a plain row, in a row's evaluation.
`PAPER` is that of the attack that the method's paper judges by, and of the judge that counts as the
paper counts; the judge `HONEST` counts everything else. Attacks and certificates are named by kind
and ball: see `in_ball`."""


def in_ball(name: str, threat: ThreatModel) -> str:
    """Returns what an attack or certificate of a kind is called in a ball.

    Args:
        name: the kind.
        threat: the ball.

    Example:
        >>> from robust_jax.attacks import ThreatModel
        >>> from robust_jax.study import in_ball
        >>> in_ball("frugal", ThreatModel("linf", 0.1))
        'frugal_0.1'
    """
    return f"{name}_{threat.eps:g}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A defence of a study; a variant of the study's file says how it is trained and judged.

    Attributes:
        title: as table and figure call it.
        family: rows of one family have one colour.
        after: row whose best checkpoint this one starts from; None for a start of its own.

    Example:
        >>> from robust_jax.study import Row
        >>> fitted = Row("REGroup", family="layers that vote", after="plain")
        >>> fitted.after
        'plain'
    """

    title: str
    family: str
    after: str | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A configuration file's variants that are trained, judged and shown together.

    Such a file is a configuration file as any other, so that `train.py FILE:ROW` is one row, and
    has a `STUDY` besides.

    Attributes:
        title: of the page.
        rows: by variant, in the table's order.
        threats: balls, the smallest first; a row's evaluation need not attack in each.
        reference: row that training times are relative to.
        checkpoints: rows whose best checkpoint, of the first seed, is kept with the records, as one
            file.
        note: what its reader has to know before the numbers, in a sentence; empty for nothing.

    Raises:
        ValueError: a row starts from one that is not there before it, or the reference or a
            checkpoint is none of them.

    Example:
        >>> from robust_jax.attacks import ThreatModel
        >>> from robust_jax.study import Row, Study
        >>> rows = {"plain": Row("plain", "plain"), "kap": Row("KAP", "KAP")}
        >>> study = Study("Digits", rows, (ThreatModel("linf", 0.1), ThreatModel("linf", 0.2)))
        >>> study.reference, [row.title for row in study.rows.values()]
        ('plain', ['plain', 'KAP'])
        >>> Study("Digits", rows, ())
        Traceback (most recent call last):
            ...
        ValueError: Expected threats=() to name a ball.
    """

    title: str
    rows: dict[str, Row]
    threats: tuple[ThreatModel, ...]
    reference: str = "plain"
    checkpoints: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        names = list(self.rows)
        checks.file_names(names)
        for name in (self.reference, *self.checkpoints):
            if name not in names:
                raise ValueError(f"Expected {name!r} among rows={names}.")
        for number, (name, row) in enumerate(self.rows.items()):
            if row.after is not None and row.after not in names[:number]:
                raise ValueError(f"Expected after={row.after!r} of {name!r} to be a row above it.")
        if not self.threats:
            raise ValueError("Expected threats=() to name a ball.")
