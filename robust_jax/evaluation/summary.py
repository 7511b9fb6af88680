"""The numbers of an evaluation, as summary.json holds them: fractions in [0, 1] and 95 % intervals.

Those of each judge and of the evaluation, which `reductions.py` makes, and what `run.py` adds of
how they came about.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

from robust_jax.evaluation.judges import Counting
from robust_jax.types import Budget

Count = Literal["accuracy", "given_clean_correct", "successes"]
"""What a paper counts, see `protocol.Printed`."""

Row = Literal["robust_accuracy", "worst_of", "worst_case_accuracy"]
"""Kinds of rows of a table: numbers of a judge by name, with their intervals."""


class Successes(TypedDict):
    """Examples, right clean by the headline's judge, that an attack makes wrong for it.

    Attributes:
        count: how many.
        accuracy: a judge's on those alone (the only ones that the REGroup paper counts).
    """

    count: int
    accuracy: float | None


class Rejudged(TypedDict):
    """Clean images judged again, each time by draws of its own: what luck alone leaves.

    Attributes:
        times: as often as the largest worst case judges.
        accuracy: share of the images that is right every time.
    """

    times: int
    accuracy: float


class Intervals(TypedDict):
    """Wilson intervals, low and high, of the numbers of the same names."""

    clean_accuracy: list[float]
    robust_accuracy: dict[str, list[float]]
    worst_case_accuracy: dict[str, list[float]]
    worst_of: dict[str, list[float]]


class Accuracies(TypedDict):
    """What a judge finds first of all.

    Attributes:
        clean_accuracy: of all chosen images.
        robust_accuracy: by attack, as the judge `counts`, over `num_counted` images.
        worst_case_accuracy: by ball (`attack_runs.balls`), right clean and under every attack in
            it that the judge counts.
        intervals: of these.
    """

    clean_accuracy: float
    robust_accuracy: dict[str, float | None]
    worst_case_accuracy: dict[str, float | None]
    intervals: Intervals


class JudgeSummary(Accuracies):
    """The numbers of one judge, by attack where they are of one.

    Attributes:
        counts: what it counts.
        num_counted: of how many images its robust accuracies are.
        worst_of: worst case over the attacks that a row of the protocol names.
        given_clean_correct: robust accuracy over the examples that are right clean.
        top5_accuracy: share of the images, clean and attacked, whose label is among the five
            classes of largest score; None of an attack that was not made on all of them.
        single_draw: mean accuracy of one draw on the same images (random methods). None of an
            attack that was not made on what fell in a smaller ball, where draws differ: each may
            be right yet.
        submissions: by k, the share of images that one of k submissions gets wrong, each decided
            by a draw of its own; where the judge's draws are enough and of a random method, and
            as `single_draw`.
        rejudged: the clean images judged again; None where there is no luck in it.
        successes: of each attack.
    """

    counts: Counting
    num_counted: int
    worst_of: dict[str, float | None]
    given_clean_correct: dict[str, float | None]
    top5_accuracy: dict[str, float | None]
    single_draw: dict[str, float | None]
    submissions: dict[str, dict[str, float]]
    rejudged: Rejudged | None
    successes: dict[str, Successes]


class Beside(TypedDict):
    """A number that a paper prints, and ours."""

    paper: float
    ours: float | None


class BesidePaper(TypedDict):
    """What a paper prints of a checkpoint, and our numbers counted as it counts.

    Attributes:
        table: of the paper.
        of: what is counted.
        rows: by row of the table.
        top5: likewise, of five classes; summaries of earlier versions have none.
    """

    table: str
    of: Count
    rows: dict[str, Beside]
    top5: NotRequired[dict[str, Beside]]


class CertificateIntervals(TypedDict):
    """The 95 % intervals of a certifier's numbers.

    Attributes:
        certified_accuracy: Wilson's.
        average_certified_radius: Student's; None of one image.
    """

    certified_accuracy: list[float]
    average_certified_radius: list[float] | None


class CertificateSummary(TypedDict):
    """What a certifier says of its images.

    Attributes:
        what: it certifies, in words.
        num_images: how many.
        certified_accuracy: share that is certified as its class at radius 0.
        abstained: share on which it abstains.
        average_certified_radius: over all images, 0 for those not certified as their own class.
        intervals: of two of them; None in formats before 7.
        num_votes: by which an image was tested, the mean; None of bounds, and where images of
            formats before 7 are among them.
        most_votes: by which each would be at most; None of bounds, and in formats before 7.
    """

    what: str
    num_images: int
    certified_accuracy: float
    abstained: float
    average_certified_radius: float
    intervals: CertificateIntervals | None
    num_votes: float | None
    most_votes: int | None


class Candidates(TypedDict):
    """Of how many examples a selection by correctness chose, and their clean accuracy."""

    num_examples: int
    clean_accuracy: float
    interval: list[float]


class AttackPasses(TypedDict):
    """What an attack cost, in passes of the network (`attacks.Passes`).

    Attributes:
        forward: passes of an image, the mean over those that were attacked and counted.
        backward: likewise.
        num_images: how many those are.
    """

    forward: float
    backward: float
    num_images: int


class Distances(TypedDict):
    """How far images lie that an attack makes wrong, right clean by the headline's judge.

    Attributes:
        num_images: how many.
        linf: median over them of the largest change.
        l2: likewise of the Euclidean norm of the change.
        l1: likewise of the sum of absolute changes; None where records of formats before 6 do not
            say it.
        l0: likewise of the number of pixels that change.
    """

    num_images: int
    linf: float
    l2: float
    l1: float | None
    l0: float | None


class Summary(Accuracies):
    """The numbers of an evaluation: its headline judge's at the top, every judge's below.

    Attributes:
        num_examples: how many were chosen.
        selection: by which rule.
        budget: "full", or "reduced".
        draws: of a random method belong to a "row" ("batch" in formats before 3).
        wall_seconds: of all attacks.
        seconds: of each.
        passes: of each whose records hold any.
        distances: of each that makes an image wrong; none in formats before 6.
        judges: by name.
        candidates: of a selection by correctness.
        sources: fingerprints of the models that attacks are transferred from, by name.
        environment: where the numbers were computed, see `environment.py`.
        earlier_environments: of earlier starts.
        peak_bytes: most memory of a device in use.
        command: how the process was started.
        printed: what a paper prints of the checkpoint.
        certificates: by certifier.
        measures: by name, the answers' numbers.
        sanity: findings of the checks.
    """

    num_examples: int
    selection: str
    budget: Budget
    draws: Literal["row", "batch"]
    wall_seconds: float
    seconds: dict[str, float]
    passes: dict[str, AttackPasses]
    distances: dict[str, Distances]
    judges: dict[str, JudgeSummary]
    candidates: NotRequired[Candidates]
    sources: NotRequired[dict[str, str]]
    environment: NotRequired[Mapping[str, object]]
    earlier_environments: NotRequired[Sequence[Mapping[str, object]]]
    peak_bytes: NotRequired[int | None]
    command: NotRequired[str]
    printed: NotRequired[BesidePaper | None]
    certificates: NotRequired[dict[str, CertificateSummary]]
    measures: NotRequired[dict[str, Mapping[str, object]]]
    sanity: NotRequired[list[dict[str, str]]]
