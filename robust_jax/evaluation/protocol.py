"""Protocols: which images an evaluation takes, what attacks them, and by whose rule they count.

A file of configs/eval returns one `Evaluation`. Its judges are the columns of its table, its
attacks the rows; every image is attacked once a row and judged by every column, so a paper's own
rule and an honest one stand beside each other on the same adversarial images.
"""

import dataclasses
from typing import Literal

from robust_jax.attacks import PGD
from robust_jax.certify import Margins, Smoothing
from robust_jax.evaluation.attack_runs import AttackRun, balls
from robust_jax.evaluation.judges import HONEST, PAPER, Judge, side_by_side
from robust_jax.evaluation.measures import REDUCED_EXAMPLES, Measure, standard
from robust_jax.evaluation.summary import Count
from robust_jax.runtime.compilation import Precision
from robust_jax.types import Budget, SplitName

__all__ = [
    "CLEAN",
    "HONEST",
    "PAPER",
    "Adversary",
    "AttackRun",
    "Evaluation",
    "Judge",
    "Printed",
    "Selection",
    "side_by_side",
]

CLEAN = "clean"
"""Name of the records without an attack."""

Rule = Literal["first", "random", "correct", "correct_per_class"]
BY_CORRECTNESS: tuple[Rule, ...] = ("correct", "correct_per_class")
REDUCED_PER_CLASS = 6
REDUCED_SUBMISSIONS = 10


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which examples of the data an evaluation takes.

    Attributes:
        split: "test", "validation" or "train".
        rule: "first" and "random" (seeded) rows; "correct": the first rows that the headline's
            judge, and every source, gets right on clean images; "correct_per_class": the first
            such rows of each class (V10K and V2K of the REGroup paper). Accuracy on a selection by
            correctness is conditional; the clean accuracy on the whole split is reported beside it.
        num_examples: how many examples; of "correct_per_class", in each class; None for all.

    Example:
        >>> from robust_jax.evaluation import Selection
        >>> Selection(num_examples=1000).most(10_000, num_classes=10)
        1000
        >>> v2k = Selection(split="validation", rule="correct_per_class", num_examples=2)
        >>> v2k.most(50_000, num_classes=1000), v2k.by_correctness
        (2000, True)
    """

    split: SplitName = "test"
    rule: Rule = "first"
    num_examples: int | None = None

    def __post_init__(self) -> None:
        if self.num_examples is not None and self.num_examples < 1:
            raise ValueError(f"Expected num_examples={self.num_examples} >= 1.")

    @property
    def by_correctness(self) -> bool:
        """Returns whether it depends on what the models have right on clean images."""
        return self.rule in BY_CORRECTNESS

    def most(self, num_examples: int, num_classes: int) -> int:
        """Returns how many examples it takes at most of so many."""
        wanted = self.num_examples or num_examples
        groups = num_classes if self.rule == "correct_per_class" else 1
        return min(wanted * groups, num_examples)

    def reduced(self) -> "Selection":
        """Returns the selection at the small budget: 64 examples, or 6 of each class."""
        limit = REDUCED_PER_CLASS if self.rule == "correct_per_class" else REDUCED_EXAMPLES
        return dataclasses.replace(self, num_examples=min(limit, self.num_examples or limit))


@dataclasses.dataclass(frozen=True)
class Adversary:
    """What holds for whoever attacks, by whichever attack.

    Attributes:
        labels: labels the attacks move away from: the "true" ones, or those "predicted" on the
            clean image by what is attacked, as CleverHans and ART do by default. A targeted attack
            is given a random other class.
        skip_misclassified: leave images that every draw of every judge has wrong to themselves:
            they count as not robust, and are not attacked. Does not touch transfer, and is not for
            a judge that counts all attacked images, or by one member (others may be right).
        num_submissions: draws of a random method that each image is submitted to, clean and
            attacked, after those that decide: `single_draw`, `submissions` and `rejudged` of the
            summary; 0 for none but those that decide.

    Example:
        >>> from robust_jax.evaluation import Adversary
        >>> art = Adversary(labels="predicted", skip_misclassified=False)  # as in ART
        >>> art.reduced().num_submissions
        10
    """

    labels: Literal["true", "predicted"] = "true"
    skip_misclassified: bool = True
    num_submissions: int = 100

    def __post_init__(self) -> None:
        if self.num_submissions < 0:
            raise ValueError(f"Expected num_submissions={self.num_submissions} >= 0.")

    def reduced(self) -> "Adversary":
        """Returns the adversary at the small budget: 10 submissions."""
        fewer = min(self.num_submissions, REDUCED_SUBMISSIONS)
        return dataclasses.replace(self, num_submissions=fewer)


@dataclasses.dataclass(frozen=True)
class Printed:
    """Numbers that a paper prints (%), to stand beside ours.

    Attributes:
        table: where.
        rows: by configuration name of the checkpoint (a cited one: in words), then by the row of
            our table.
        cited: those of `rows` that the paper only repeats from others.
        of: what the paper counts. "accuracy" over all images; "given_clean_correct" over those that
            are right clean; "successes" over those that the attack turned wrong for the headline's
            judge. The clean row is accuracy whichever.
        judge: the column that it compares with; None for the headline's.
        top5: as `rows`: the share of all images whose label is among the five largest scores.

    Raises:
        ValueError: what is cited, or `top5`, has no row.

    Example:
        >>> from robust_jax.attacks import AutoAttack, ThreatModel
        >>> from robust_jax.evaluation import AttackRun, Evaluation
        >>> from robust_jax.evaluation.protocol import Printed
        >>> rows = {"mine_cifar10": {"clean": 91.0, "autoattack": 45.0}}  # in per cent
        >>> attacks = {"autoattack": AttackRun(AutoAttack(ThreatModel("linf", 8 / 255)))}
        >>> Evaluation(attacks, printed=Printed("Table 1 of a paper", rows)).printed.of
        'accuracy'
    """

    table: str
    rows: dict[str, dict[str, float]]
    cited: tuple[str, ...] = ()
    of: Count = "accuracy"
    judge: str | None = None
    top5: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.cited, *self.top5) if name not in self.rows]
        if unknown:
            raise ValueError(f"Expected cited or top5={unknown} among rows={list(self.rows)}.")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What evaluate.py measures on a checkpoint.

    Attributes:
        attacks: by the name that tables print.
        judges: by the name that tables print; the first is the headline. `deciding` names the one
            that the sanity checks and the figures ask.
        worst_of: further rows, each the worst case per example over the attacks it names
            (DVERGE's any-of set of transferred examples).
        certificates: certifiers, by the name that the report prints: of the deployed rule, by the
            votes of its noisy copies (smoothing) or by bounds (margins). They are computed in
            float32 whatever `precision` says.
        num_certified: the first chosen examples that are certified; None for all.
        others: names of further checkpoints that a selection by correctness asks too, and that are
            certified beside this one (figure 2 of the LPD paper). `evaluate.py --sources NAME DIR`
            says which they are.
        measures: further questions, by the name that summary.json prints, of a model that has
            what they need; None for `measures.standard`, as far as the model has it.
        selection: which examples.
        adversary: what holds for every attack.
        batch_size: global batch size; the last batch is padded and masked.
        sanity: probe the model for the automatic checks (`sanity/`); those that need the records
            alone always run.
        budget: "reduced" for the small evaluation of `reduced()`, whose numbers are not comparable.
        printed: what the paper prints for the checkpoints of its table; changes no number of ours.
        precision: of products of float32 in attacks, judges, measures and probes, where they do
            not say otherwise themselves, in JAX's names. It changes results on GPUs and TPUs.
        seed: root of the evaluation's random keys.

    Raises:
        ValueError: its parts do not go together, such as a row `after` one that is not above it.

    Example:
        >>> from robust_jax.attacks import APGD, ThreatModel
        >>> from robust_jax.evaluation import AttackRun, Evaluation, Judge, Selection
        >>> ball = ThreatModel("linf", eps=8 / 255)
        >>> adaptive = AttackRun(APGD(ball), eot_samples=20, adaptive=True)
        >>> attacks = {"paper": AttackRun(APGD(ball), view="noise_off"), "eot": adaptive}
        >>> judges = {"paper": Judge(rule="paper", adaptive=False), "honest": Judge(num_draws=10)}
        >>> wanted = Evaluation(attacks, judges, selection=Selection(num_examples=1000))
        >>> wanted.counted("paper"), wanted.counted("honest"), wanted.deciding
        (['paper'], ['paper', 'eot'], 'honest')
        >>> wanted.descriptions["eot"]
        'APGD, linf eps 0.03137, num_restarts 1, num_steps 100, on deployed, EOT 20, adaptive'
    """

    attacks: dict[str, AttackRun] = dataclasses.field(default_factory=dict)
    judges: dict[str, Judge] = dataclasses.field(default_factory=lambda: {"accuracy": Judge()})
    worst_of: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    certificates: dict[str, Smoothing | Margins] = dataclasses.field(default_factory=dict)
    num_certified: int | None = 500
    others: tuple[str, ...] = ()
    measures: dict[str, Measure] | None = None
    selection: Selection = Selection()
    adversary: Adversary = Adversary()
    batch_size: int = 256
    sanity: bool = True
    budget: Budget = "full"
    printed: Printed | None = None
    precision: Precision = "highest"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"Expected batch_size={self.batch_size} >= 1.")
        everything = [
            name for name, one in self.judges.items() if one.counts == "attacked" or one.of_a_member
        ]
        if everything and self.adversary.skip_misclassified:
            skipped = [name for name, run in self.attacks.items() if run.source is None]
            if skipped:
                raise ValueError(
                    f"Expected skip_misclassified=True to be False: judge {everything[0]!r} counts "
                    "what an attack makes of images that were wrong before."
                )
        if not self.judges:
            raise ValueError("Expected judges={} to name at least one.")
        if CLEAN in self.attacks:
            raise ValueError(f"Expected attacks to leave the name {CLEAN!r} to the clean images.")
        for name in [*self.attacks, *self.judges, *self.certificates, *self.others]:
            if "/" in name or "@" in name:
                raise ValueError(f"Expected name={name!r} without '/' and '@': it names a file.")
        earlier: dict[str, AttackRun] = {}
        for name, run in self.attacks.items():
            if run.after is not None:
                run.check_after(earlier, name)
            if len(run.sources) > 1 and self.adversary.labels == "predicted":
                raise ValueError(
                    f"Expected labels='predicted' to be 'true': {name!r} is transferred from "
                    f"several checkpoints, {[*run.sources]}, which need not predict the same."
                )
            earlier[name] = run
        for name, members in self.worst_of.items():
            unknown = [member for member in members if member not in self.attacks]
            if unknown or not members:
                raise ValueError(f"Expected worst_of={name!r} to name attacks, found {unknown}.")
            if name in self.attacks:
                raise ValueError(f"Expected worst_of={name!r} not to be an attack's name.")
        self._check_printed()

    def _check_printed(self) -> None:
        """Raises ValueError where the paper prints what this evaluation has no number of."""
        if self.printed is not None:
            known = {CLEAN, *self.attacks, *self.worst_of}
            five = {row for rows in self.printed.top5.values() for row in rows}
            printed = five | {row for rows in self.printed.rows.values() for row in rows}
            if not printed <= known or self.printed.judge not in (None, *self.judges):
                raise ValueError(
                    f"Expected printed={self.printed.table!r} to name rows and a judge of this "
                    f"evaluation, found {sorted(printed - known)}, {self.printed.judge!r}."
                )
            judge, of = self.printed.judge or next(iter(self.judges)), self.printed.of
            counted = set(self.counted(judge))
            groups = {name for name, members in self.worst_of.items() if counted >= {*members}}
            without = printed - {CLEAN} - counted - (groups - five if of == "accuracy" else set())
            if without:
                raise ValueError(
                    f"Expected printed={self.printed.table!r}, of={of!r}, to name rows that "
                    f"judge {judge!r} has such a number of, found {sorted(without)}."
                )

    @property
    def descriptions(self) -> dict[str, str]:
        """Returns a line on each attack, by its name."""
        return {name: run.described for name, run in self.attacks.items()}

    def counted(self, judge: str) -> list[str]:
        """Returns the attacks that a judge counts."""
        adaptive = self.judges[judge].adaptive
        return [name for name, run in self.attacks.items() if adaptive or not run.adaptive]

    @property
    def deciding(self) -> str:
        """Returns the judge whose word counts: the honest one, the last where there is none."""
        return HONEST if HONEST in self.judges else list(self.judges)[-1]

    @property
    def deployed(self) -> str | None:
        """Returns the judge by what is deployed, the deciding one if it is; None without one."""
        names = [name for name, judge in self.judges.items() if judge.view is None]
        return self.deciding if self.deciding in names else next(reversed(names), None)

    @property
    def asked(self) -> dict[str, Measure]:
        """Returns the measures; where they are left open, those that every report shows."""
        if self.measures is not None:
            return self.measures
        # Members are attacked by PGD, in the first ball that it knows.
        known = [ball for ball in balls(self.attacks) if ball.norm in PGD.norms]
        threats = sorted(known, key=lambda ball: (PGD.norms.index(ball.norm), ball.eps))
        return dict(standard(next(iter(threats), None)))

    @property
    def takes_starts(self) -> bool:
        """Returns whether an attack begins at other images."""
        return any(run.attack.takes_starts for run in self.attacks.values())

    @property
    def sources(self) -> list[str]:
        """Returns the names of the checkpoints that attacks are transferred from, and of others."""
        named = {name for run in self.attacks.values() for name in run.sources}
        return sorted(named | set(self.others))

    def reduced(self) -> "Evaluation":
        """Returns the evaluation at the small budget, stamped so.

        Every attack, judge, certifier and measure says itself what its own is: enough to see that
        everything runs and what breaks outright, on any machine. Its numbers are not comparable
        with anybody's.
        """
        measures = self.measures
        if measures is not None:
            measures = {name: measure.reduced() for name, measure in measures.items()}
        return dataclasses.replace(
            self,
            attacks={name: run.reduced() for name, run in self.attacks.items()},
            judges={name: judge.reduced() for name, judge in self.judges.items()},
            certificates={name: one.reduced() for name, one in self.certificates.items()},
            num_certified=REDUCED_EXAMPLES,
            measures=measures,
            selection=self.selection.reduced(),
            adversary=self.adversary.reduced(),
            batch_size=min(self.batch_size, REDUCED_EXAMPLES),
            budget="reduced",
        )
