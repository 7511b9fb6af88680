"""Protocols: which images an evaluation takes, what attacks them, and by whose rule they count.

A file of configs/eval returns one `Evaluation`. Its judges are the columns of its table, its
attacks the rows; every image is attacked once a row and judged by every column, so a paper's own
rule and an honest one stand beside each other on the same adversarial images.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from robust_jax import serialization
from robust_jax.attacks import Attack, AutoAttack, Averaged, BoundedAttack, ThreatModel
from robust_jax.certify import Margins, Smoothing
from robust_jax.evaluation.judges import HONEST, PAPER, Judge, side_by_side
from robust_jax.evaluation.measures import Measure
from robust_jax.runtime.compilation import Precision

__all__ = ["CLEAN", "HONEST", "PAPER", "AttackRun", "Evaluation", "Judge", "side_by_side"]

CLEAN = "clean"
"""Name of the records without an attack."""

Selection = Literal["first", "random", "correct", "correct_per_class"]
BY_CORRECTNESS = ("correct", "correct_per_class")


@dataclasses.dataclass(frozen=True)
class AttackRun:
    """An attack of an evaluation and what it is aimed at: a row of the table.

    Attributes:
        attack: the attack.
        view: the view that it differentiates or queries.
        eot_samples: draws averaged at every call of the view (expectation over transformation,
            Athalye et al., 2018); 1 for a single draw.
        draws: "fresh" at every call, or the "fixed" ones of a judge with that rule: the averaged
            predictor attacked as the deterministic model that it is.
        source: name of the checkpoint that is attacked in the model's place (transfer); None for
            the model itself. `evaluate.py --sources NAME DIR` says which it is. A transferred
            example is never left out because the model was wrong already.
        adaptive: designed against this defence, and not of its paper.
    """

    attack: Attack
    view: str = "deployed"
    eot_samples: int = 1
    draws: Literal["fresh", "fixed"] = "fresh"
    source: str | None = None
    adaptive: bool = False

    def __post_init__(self) -> None:
        if self.eot_samples < 1:
            raise ValueError(f"Expected eot_samples={self.eot_samples} >= 1.")


Count = Literal["accuracy", "given_clean_correct", "successes"]


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
        others: names of further checkpoints that a selection by correctness asks too, and that are
            certified beside this one (figure 2 of the LPD paper). `evaluate.py --sources NAME DIR`
            says which they are.
        measures: further questions, by the name that summary.json prints; empty for
            `measures.standard` as far as the model has what they need, where `sanity` is on.
        num_certified: the first chosen examples that are certified; None for all.
        split: "test", "validation" or "train".
        num_examples: how many examples; of "correct_per_class", in each class; None for all.
        selection: which. "first" and "random" (seeded) rows; "correct": the first rows that the
            headline's judge, and every source, gets right on clean images; "correct_per_class": the
            first such rows of each class (V10K and V2K of the REGroup paper). Accuracy on a
            selection by correctness is conditional; the clean accuracy on the whole split is
            reported beside it.
        batch_size: global batch size; the last batch is padded and masked.
        attack_labels: labels the attacks move away from: the "true" ones, or those "predicted" on
            the clean image by what is attacked, as CleverHans and ART do by default. A targeted
            attack is given a random other class.
        skip_misclassified: leave images that every judge has wrong already to themselves: they
            count as not robust, and are not attacked. Does not touch transfer, and is not for a
            judge that counts all attacked images.
        num_submissions: draws of a random method that each image is submitted to, clean and
            attacked, after those that decide: `single_draw`, `submissions` and `rejudged` of the
            summary; 0 for none but those that decide.
        sanity: probe the model for the automatic checks (`sanity/`); those that need the records
            alone always run.
        budget: "reduced" for the small stand-in of `reduced`, whose numbers are not comparable.
        printed: what the paper prints for the checkpoints of its table; changes no number of ours.
        precision: of products of float32 in attacks, judges, measures and probes, where they do
            not say otherwise themselves, in JAX's names. It changes results on GPUs and TPUs.
        seed: root of the evaluation's random keys.
    """

    attacks: dict[str, AttackRun] = dataclasses.field(default_factory=dict)
    judges: dict[str, Judge] = dataclasses.field(default_factory=lambda: {"accuracy": Judge()})
    worst_of: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    certificates: dict[str, Smoothing | Margins] = dataclasses.field(default_factory=dict)
    others: tuple[str, ...] = ()
    measures: dict[str, Measure] = dataclasses.field(default_factory=dict)
    num_certified: int | None = 500
    split: Literal["test", "validation", "train"] = "test"
    num_examples: int | None = None
    selection: Selection = "first"
    batch_size: int = 256
    attack_labels: Literal["true", "predicted"] = "true"
    skip_misclassified: bool = True
    num_submissions: int = 100
    sanity: bool = True
    budget: Literal["full", "reduced"] = "full"
    printed: Printed | None = None
    precision: Precision = "highest"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"Expected batch_size={self.batch_size} >= 1.")
        if self.num_examples is not None and self.num_examples < 1:
            raise ValueError(f"Expected num_examples={self.num_examples} >= 1.")
        if self.num_submissions < 0:
            raise ValueError(f"Expected num_submissions={self.num_submissions} >= 0.")
        everything = [name for name, one in self.judges.items() if one.counts == "attacked"]
        if everything and self.skip_misclassified:
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
        for name, members in self.worst_of.items():
            unknown = [member for member in members if member not in self.attacks]
            if unknown or not members:
                raise ValueError(f"Expected worst_of={name!r} to name attacks, found {unknown}.")
            if name in self.attacks:
                raise ValueError(f"Expected worst_of={name!r} not to be an attack's name.")
        if self.printed is not None:
            known = {CLEAN, *self.attacks, *self.worst_of}
            five = {row for rows in self.printed.top5.values() for row in rows}
            found = five | {row for rows in self.printed.rows.values() for row in rows}
            if not found <= known or self.printed.judge not in (None, *self.judges):
                raise ValueError(
                    f"Expected printed={self.printed.table!r} to name rows and a judge of this "
                    f"evaluation, found {sorted(found - known)}, {self.printed.judge!r}."
                )
            judge, of = self.printed.judge or next(iter(self.judges)), self.printed.of
            counted = set(self.counted(judge))
            groups = {name for name, members in self.worst_of.items() if counted >= {*members}}
            without = found - {CLEAN} - counted - (groups - five if of == "accuracy" else set())
            if without:
                raise ValueError(
                    f"Expected printed={self.printed.table!r}, of={of!r}, to name rows that "
                    f"judge {judge!r} has such a number of, found {sorted(without)}."
                )

    def counted(self, judge: str) -> list[str]:
        """Returns the attacks that a judge counts."""
        adaptive = self.judges[judge].adaptive
        return [name for name, run in self.attacks.items() if adaptive or not run.adaptive]

    @property
    def deciding(self) -> str:
        """Returns the judge whose word counts: the honest one, the last where there is none."""
        return HONEST if HONEST in self.judges else list(self.judges)[-1]

    @property
    def sources(self) -> list[str]:
        """Returns the names of the checkpoints that attacks are transferred from, and of others."""
        named = {run.source for run in self.attacks.values() if run.source is not None}
        return sorted(named | set(self.others))


def balls(
    config: Evaluation, names: Sequence[str] | None = None, *, nested: bool = True
) -> dict[ThreatModel, list[str]]:
    """Returns by ball, the smaller ones of a norm first, the attacks whose examples lie in it.

    An attack without a bound is in none; a minimum-norm attack is in that which
    `attack.within(eps)` states.

    Args:
        config: the evaluation.
        names: attacks that count; None for all.
        nested: are the attacks of a smaller ball of the norm also those of a larger one?
    """
    bounded: dict[str, ThreatModel] = {}
    for name in config.attacks if names is None else names:
        attack = config.attacks[name].attack
        if isinstance(attack, BoundedAttack):
            bounded[name] = attack.threat

    def inside(small: ThreatModel, large: ThreatModel) -> bool:
        return small == large or (nested and small.norm == large.norm and small.eps <= large.eps)

    order = [threat.norm for threat in bounded.values()]
    threats = sorted(set(bounded.values()), key=lambda one: (order.index(one.norm), one.eps))
    named = [name for name in config.attacks if name in bounded]
    return {threat: [name for name in named if inside(bounded[name], threat)] for threat in threats}


REDUCED_EXAMPLES = 64
REDUCED_SUBMISSIONS = 10
REDUCED_EOT = 4
REDUCED_VOTES = 1_000
_REDUCED_FIELDS = {"num_restarts": 1, "num_queries": 200}


def reduced(evaluation: Evaluation) -> Evaluation:
    """Returns the evaluation at the small budget, stamped so.

    64 examples (6 of each class, where they are counted by class), one restart, 200 queries of
    Square, 4 draws of EOT and of fixed judges, 10 submissions, 1,000 votes of smoothing, measures
    likewise: enough to see that everything runs and what breaks outright, on any machine. Its
    numbers are not comparable with anybody's.
    """

    def smaller_attack(attack: Any) -> Any:
        names = {field.name for field in dataclasses.fields(attack)}
        fields: dict[str, Any] = {
            name: min(value, getattr(attack, name))
            for name, value in _REDUCED_FIELDS.items()
            if name in names
        }
        random = isinstance(attack, AutoAttack) and attack.version == "rand"
        if random or isinstance(attack, Averaged):
            fields["num_samples"] = min(attack.num_samples, REDUCED_EOT)
        elif isinstance(attack, AutoAttack):
            members = tuple(map(smaller_attack, attack.members()))
            fields |= {"version": "custom", "attacks": members}
        for name in names:
            inner = getattr(attack, name)
            if isinstance(inner, Attack):
                fields[name] = smaller_attack(inner)
        return dataclasses.replace(attack, **fields)

    def smaller_measure(measure: Measure) -> Measure:
        fields: dict[str, Any] = {
            "num_examples": min(measure.num_examples or REDUCED_EXAMPLES, REDUCED_EXAMPLES)
        }
        for field in dataclasses.fields(measure):
            value = getattr(measure, field.name)
            if isinstance(value, Attack):
                fields[field.name] = smaller_attack(value)
            elif isinstance(value, dict):
                fields[field.name] = {name: smaller_attack(one) for name, one in value.items()}
        return dataclasses.replace(measure, **fields)

    examples = evaluation.num_examples
    per_class = evaluation.selection == "correct_per_class"
    limit = 6 if per_class else REDUCED_EXAMPLES
    return dataclasses.replace(
        evaluation,
        attacks={
            name: dataclasses.replace(
                run,
                attack=smaller_attack(run.attack),
                eot_samples=min(run.eot_samples, REDUCED_EOT),
            )
            for name, run in evaluation.attacks.items()
        },
        # The predictor under fixed draws is judged by those that were attacked.
        judges={
            name: dataclasses.replace(judge, num_draws=min(judge.num_draws, REDUCED_EOT))
            if judge.rule == "fixed"
            else judge
            for name, judge in evaluation.judges.items()
        },
        certificates={
            name: dataclasses.replace(found, num_samples=min(found.num_samples, REDUCED_VOTES))
            if isinstance(found, Smoothing)
            else found
            for name, found in evaluation.certificates.items()
        },
        measures={name: smaller_measure(one) for name, one in evaluation.measures.items()},
        num_certified=REDUCED_EXAMPLES,
        num_submissions=min(evaluation.num_submissions, REDUCED_SUBMISSIONS),
        num_examples=limit if examples is None else min(limit, examples),
        batch_size=min(evaluation.batch_size, REDUCED_EXAMPLES),
        budget="reduced",
    )


def describe(config: Evaluation) -> dict[str, str]:
    """Returns a line on each attack: its class, its fields, its view."""
    lines = {}
    for name, run in config.attacks.items():
        fields = serialization.to_json(run.attack)
        threat = fields.get("threat")
        words = [type(run.attack).__name__]
        if isinstance(threat, dict):
            words.append(f"{threat['norm']} eps {threat['eps']:.4g}")
        words += [f"{k} {v}" for k, v in fields.items() if k in ("num_steps", "num_restarts")]
        words.append(f"on {run.view}")
        if run.draws == "fixed":
            words.append(f"{run.eot_samples} fixed draws")
        elif run.eot_samples > 1:
            words.append(f"EOT {run.eot_samples}")
        if run.source is not None:
            words.append(f"of {run.source}")
        if run.adaptive:
            words.append("adaptive")
        lines[name] = ", ".join(words)
    return lines
