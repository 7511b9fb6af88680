"""Attacks of an evaluation: what each is aimed at, and in which ball. A row of its table."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from robust_jax import serialization
from robust_jax.attacks import Attack, BoundedAttack, ThreatModel
from robust_jax.attacks.radii import check_rising
from robust_jax.attacks.views import Average, check_average
from robust_jax.evaluation.judges import REDUCED_DRAWS

STRENGTHS = ("num_steps", "num_restarts", "num_queries")
"""Fields of an attack that a line on it says."""


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
        source: name of the checkpoint that is attacked in the model's place (transfer), or names
            of several that are attacked at once; None for the model itself.
            `evaluate.py --sources NAME DIR` says which they are. A transferred example is never
            left out because the model was wrong already.
        average: of several sources, as `attacks.ensemble` has it: of their "logits" (the mean),
            of their "probabilities", or "gradients", those of each one's loss. Each source is
            averaged over its own draws first.
        adaptive: designed against this defence, and not of its paper.
        after: name of an earlier row whose ball lies in this one's: what a judge has wrong there
            counts as wrong here, with the same image, and what all have wrong there is not attacked
            again. So no number rises with the radius, and none is above that of the row by
            itself with the same draws: see `over_radii`.

    Raises:
        ValueError: less than one draw, a source twice, or an average of a single one.

    References:
        Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", 2018: the
        expectation over transformation.

    Example:
        >>> from robust_jax.attacks import PGD, ThreatModel
        >>> from robust_jax.evaluation import AttackRun
        >>> ball = ThreatModel("linf", eps=8 / 255)
        >>> AttackRun(PGD(ball, num_steps=100), view="noise_off", eot_samples=20).described
        'PGD, linf eps 0.03137, num_steps 100, num_restarts 1, on noise_off, EOT 20'
        >>> AttackRun(PGD(ball), source=("plain", "adversarial"), average="probabilities").origin
        'of plain + adversarial, mean probabilities'
    """

    attack: Attack
    view: str = "deployed"
    eot_samples: int = 1
    draws: Literal["fresh", "fixed"] = "fresh"
    source: str | tuple[str, ...] | None = None
    adaptive: bool = False
    after: str | None = None
    average: Average = "logits"

    def __post_init__(self) -> None:
        if self.eot_samples < 1:
            raise ValueError(f"Expected eot_samples={self.eot_samples} >= 1.")
        if self.source == () or len(set(self.sources)) < len(self.sources):
            raise ValueError(f"Expected source={self.source!r} to name checkpoints, each once.")
        check_average(self.average)
        if self.average != "logits" and len(self.sources) < 2:
            raise ValueError(
                f"Expected average={self.average!r} of source={self.source!r} to be of several."
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """Returns the names of the checkpoints that are attacked in the model's place."""
        if self.source is None:
            return ()
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def origin(self) -> str:
        """Returns where the examples are from, in words; nothing where it is the model itself."""
        words = f"of {' + '.join(self.sources)}" if self.sources else ""
        return f"{words}, mean {self.average}" if len(self.sources) > 1 else words

    @property
    def described(self) -> str:
        """Returns a line on it: the attack's class, ball, steps and loss, and what it is aimed at.

        The loss where it is not the attack's own.
        """
        fields = serialization.to_json(self.attack)
        words = [type(self.attack).__name__]
        if isinstance(self.attack, BoundedAttack):
            words.append(str(self.attack.threat))
        words += [f"{name} {fields[name]}" for name in STRENGTHS if name in fields]
        own = {field.name: field.default for field in dataclasses.fields(self.attack)}
        if fields.get("loss") != own.get("loss"):
            words.append(f"loss {fields['loss']}")
        words.append(f"on {self.view}")
        if self.draws == "fixed":
            words.append(f"{self.eot_samples} fixed draws")
        elif self.eot_samples > 1:
            words.append(f"EOT {self.eot_samples}")
        if self.origin:
            words.append(self.origin)
        if self.adaptive:
            words.append("adaptive")
        if self.after is not None:
            words.append(f"after {self.after}")
        return ", ".join(words)

    def over_radii(self, name: str, *, eps: Sequence[float]) -> "dict[str, AttackRun]":
        """Returns a row of the table for each radius, each going on from the one before.

        They are one program with the same draws: compiled once, and an image that has fallen costs
        no more passes. The report shows them as a curve.

        Args:
            name: of the rows, before the radius.
            eps: radii, rising. A step size that is given is kept; one that is None follows them.

        Raises:
            ValueError: the attack has no ball, or the radii do not rise.

        Example:
            >>> from robust_jax.attacks import APGD, ThreatModel
            >>> from robust_jax.evaluation import AttackRun
            >>> run = AttackRun(APGD(ThreatModel("linf", 8 / 255)))
            >>> rows = run.over_radii("apgd", eps=[0.01, 0.02])
            >>> {name: row.after for name, row in rows.items()}
            {'apgd eps 0.01': None, 'apgd eps 0.02': 'apgd eps 0.01'}
        """
        if not isinstance(self.attack, BoundedAttack):
            raise ValueError(f"Expected attack={self.attack} to be one inside a ball.")
        check_rising(eps)
        rows: dict[str, AttackRun] = {}
        for radius in eps:
            after, title = next(reversed(rows), None), f"{name} eps {radius:.4g}"
            attack = self.attack.with_eps(radius)
            rows[title] = dataclasses.replace(self, attack=attack, after=after)
        return rows

    def check_after(self, earlier: Mapping[str, "AttackRun"], name: str) -> None:
        """Raises ValueError unless the row that this one goes on from is in a ball inside its own.

        Args:
            earlier: rows above it, by name.
            name: its own.
        """
        before = earlier.get(self.after or "")
        if before is None:
            raise ValueError(
                f"Expected after={self.after!r} of {name!r} to be a row above it: {[*earlier]}."
            )
        inner, outer = (
            one.attack.threat if isinstance(one.attack, BoundedAttack) else None
            for one in (before, self)
        )
        if inner is None or outer is None or not outer.contains(inner):
            raise ValueError(
                f"Expected after={self.after!r} of {name!r} to be in a ball inside its own, "
                f"found {inner} and {outer}."
            )
        if before.adaptive != self.adaptive:
            raise ValueError(
                f"Expected adaptive={self.adaptive} of {name!r} to be that of {self.after!r}, from "
                "which it goes on: a judge counts both or none."
            )

    def reduced(self) -> "AttackRun":
        """Returns the run at the small budget: its attack's, and 4 draws of EOT."""
        return dataclasses.replace(
            self,
            attack=self.attack.reduced(),
            eot_samples=min(self.eot_samples, REDUCED_DRAWS),
        )


def balls(
    attacks: Mapping[str, AttackRun], names: Iterable[str] | None = None, *, nested: bool = True
) -> dict[ThreatModel, list[str]]:
    """Returns by ball, the smaller ones of a norm first, the attacks whose examples lie in it.

    An attack without a bound is in none; a minimum-norm attack is in that which
    `attack.within(eps)` states.

    Args:
        attacks: of an evaluation, by name.
        names: attacks that count; None for all.
        nested: are the attacks of a smaller ball of the norm also those of a larger one?
    """
    bounded: dict[str, ThreatModel] = {}
    for name in attacks if names is None else names:
        attack = attacks[name].attack
        if isinstance(attack, BoundedAttack):
            bounded[name] = attack.threat

    def inside(small: ThreatModel, large: ThreatModel) -> bool:
        return small == large or (nested and small.norm == large.norm and small.eps <= large.eps)

    order = [threat.norm for threat in bounded.values()]
    threats = sorted(set(bounded.values()), key=lambda one: (order.index(one.norm), one.eps))
    named = [name for name in attacks if name in bounded]
    return {threat: [name for name in named if inside(bounded[name], threat)] for threat in threats}
