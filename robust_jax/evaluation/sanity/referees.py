"""Referees: attacks that the probe runs itself on every attacked view, in every ball.

An evaluation need not hold the attack that shows its gradients to be masked. What queries, another
loss, more steps and starts or plain noise break, and gradients do not, is found here.

All by the word of the view itself: do attacks on it reach their goal? Whether they carry over to
what decides is asked of the records.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from robust_jax import metrics
from robust_jax.attacks import ThreatModel
from robust_jax.evaluation.sanity.attacked import (
    LOSSES,
    NUM_NOISES,
    NUM_QUERIES,
    NUM_STEPS,
    AttackedView,
)
from robust_jax.evaluation.sanity.findings import Finding, outranks

NUM_STARTS = 5
"""Starts of PGD, the first of them the one that referees are compared with."""

FEW = 5
"""Fewer images that stand say nothing."""

MORE = 0.1
"""Share of the images that other losses, steps or starts may find beside PGD for a note in place of
a flag: a sound network too has images that one start in five finds (at twice the radius that it
was trained at, 3 to 6 %), and on enough images any such number is more than chance."""

PREDICTED = 0.5
"""Correlation of predicted and true changes from which on a gradient is believed."""


Standing = Bool[np.ndarray, " b"]
"""Which images stand."""


@runtime_checkable
class Referee(Protocol):
    """Returns which of the images that stand under gradients stand under it too, in a ball."""

    def __call__(self, threat: ThreatModel, among: Standing, /) -> Standing: ...


class Ball(NamedTuple):
    """A ball in which a view is attacked.

    Attributes:
        threat: the ball.
        fooled: on which of the images the evaluation's own attacks of several steps on the view
            in it have fooled the view, where that is known: what referees are compared with in
            place of the probe's PGD.
    """

    threat: ThreatModel
    fooled: Bool[np.ndarray, " b"] | None = None

    def __str__(self) -> str:
        return str(self.threat)


def findings(view: AttackedView, balls: Sequence[Ball]) -> list[Finding]:
    """Returns what all of these attacks say, the smallest ball first."""
    found = [unbounded(view)]
    if not balls:
        return found
    return [*found, linear(view, balls[0]), rescaling(view, balls[0]), *referees(view, balls)]


def gradients(view: AttackedView, ball: Ball) -> Bool[np.ndarray, " b"]:
    """Returns which images stand under gradients: the evaluation's own, or the probe's PGD."""
    if ball.fooled is None:
        return view.pgd(ball.threat)
    if view.random:  # the evaluation's draws, and the probe's
        return view.pgd(ball.threat) & ~ball.fooled
    return view.standing(view.images) & ~ball.fooled


def unbounded(view: AttackedView) -> Finding:
    """Returns a flag where an attack without a bound leaves more than chance.

    Or, of few classes, more than half of what is right: chance is what a blind one leaves too.
    """
    check = f"view {view.name!r}: eps = 1 reaches chance"
    threat = ThreatModel("linf", 1.0)
    standing = view.pgd(threat, loss="margin", relative_step=0.1)
    left, chance = int(standing.sum()), 1 / view.num_classes
    low, _ = metrics.interval(left, len(standing))
    right = np.mean(view.standing(view.images))
    text = f"PGD-{NUM_STEPS} at eps = 1 leaves {left} of {len(standing)}; chance is {chance:.0%}."
    if low <= min(chance, right / 2):
        return Finding(check, "passed", text)
    return Finding(
        check,
        "flag",
        text,
        "The gradient does not lead anywhere: no number of a gradient attack on this view "
        "means anything. Use queries, transfer, BPDA.",
    )


def linear(view: AttackedView, ball: Ball) -> Finding:
    """Returns a flag where gradients do not predict what half a radius away does to the loss.

    By the correlation over images and random directions of the margin's change with the one
    that its gradient gives. Gradients that are shattered or vanish but at a few places point
    nowhere, however long they are. Asked where images stand: a network that bends as much and
    whose images fall all the same is no more robust than it looks.
    """
    check = f"view {view.name!r}: gradients predict the loss nearby"
    half = dataclasses.replace(ball.threat, eps=ball.threat.eps / 2)
    stands = gradients(view, ball)
    if stands.sum() < FEW:
        return Finding(check, "passed", f"At {ball} gradients leave {stands.sum()} images.")
    both = np.stack(view.changes(half))[..., stands].reshape(2, -1)
    both = both[:, np.isfinite(both).all(axis=0)]
    still = both.shape[1] < 2 or bool((np.std(both, axis=1) == 0).any())
    correlation = 0.0 if still else float(np.corrcoef(both)[0, 1])
    text = (
        f"On {stands.sum()} images that stand, along random signs of half the radius of {ball}, "
        "the change of the margin and the one that its gradient predicts have a correlation of "
        f"{correlation:.2f}."
    )
    if correlation >= PREDICTED:
        return Finding(check, "passed", text)
    return Finding(
        check,
        "flag",
        text,
        "Gradients are shattered or vanish: attack through BPDA or a smooth surrogate, average "
        "gradients over noise, take many restarts, and queries.",
    )


def rescaling(view: AttackedView, ball: Ball) -> Finding:
    """Returns a flag where dividing logits by their median margin makes an attack stronger."""
    check = f"view {view.name!r}: the scale of the logits does not matter"
    plain = view.pgd(ball.threat)
    rescaled = view.pgd(ball.threat, scale=view.scale, among=plain)
    better, alone = beats(view, rescaled, plain)
    text = (
        f"PGD-{NUM_STEPS} at {ball} leaves {sum(plain)} of {len(plain)}; with logits divided "
        f"by {view.scale:.3g}, their median margin, it makes {alone} more of them wrong."
    )
    if not better:
        return Finding(check, "passed", text)
    return Finding(
        check,
        "flag",
        text,
        "Quote attacks on rescaled logits (Rescaled), or with the scale-free DLR loss.",
    )


def referees(view: AttackedView, balls: Sequence[Ball]) -> list[Finding]:
    """Returns of each referee whether it beats gradients in any ball."""
    others = tuple(loss for loss in LOSSES[1:] if loss != "dlr" or view.num_classes > 2)

    def other(loss: str) -> Referee:
        return lambda threat, among: view.pgd(threat, loss=loss, among=among)

    def longer(threat: ThreatModel, among: Standing) -> Standing:
        return view.pgd(threat, num_steps=2 * NUM_STEPS, among=among)

    def restarted(threat: ThreatModel, among: Standing) -> Standing:
        for start in range(NUM_STARTS):
            among = view.pgd(threat, start=start, among=among)
        return among

    further = {f"PGD-{2 * NUM_STEPS}": longer}
    if not view.random:  # of a random view the best of several is the luckiest
        further[f"PGD from {NUM_STARTS} starts"] = restarted
    return [
        compare(
            view,
            "gradients beat queries",
            {f"Square with {NUM_QUERIES} queries": view.square},
            balls,
            "Gradients of this view are masked: do not quote the white-box number. Try other "
            "losses (margin, DLR), logits divided by their gap, EOT or BPDA.",
        ),
        compare(
            view,
            "gradients beat random noise",
            {f"the best of {NUM_NOISES} draws of random signs": view.noise},
            balls,
            "The gradient of this view points nowhere, or away from the boundary: attack "
            "through BPDA, or by queries and transfer.",
        ),
        compare(
            view,
            "no other loss finds more",
            {f"PGD-{NUM_STEPS} with loss {loss!r}": other(loss) for loss in others},
            balls,
            "The cross-entropy fails on this view: quote attacks with the margin or DLR loss "
            "(APGD with loss='dlr', AutoAttack).",
            least=MORE,
        ),
        compare(
            view,
            "more steps and starts find no more",
            further,
            balls,
            "What is found depends on where it is looked for: take more steps and restarts "
            "until the number stays, and look for masked gradients.",
            least=MORE,
        ),
    ]


def compare(
    view: AttackedView,
    claim: str,
    referees: Mapping[str, Referee],
    balls: Sequence[Ball],
    step: str,
    *,
    least: float = 0.0,
) -> Finding:
    """Returns a flag where one of the referees beats gradients in any ball.

    Args:
        view: the view.
        claim: the check's name, beside the view's.
        referees: by their names, which images stand under each in a ball.
        balls: where they are compared.
        step: what to do then.
        least: share of the images from which on what a referee finds is a flag; a note below.
    """
    check, compared, noted = f"view {view.name!r}: {claim}", [], []
    num_tests = len(referees) * len(balls)
    for ball in balls:
        base = gradients(view, ball)
        for name, referee in referees.items():
            beaten, alone = beats(view, referee(ball.threat, base), base, num_tests)
            text = (
                f"at {ball} gradients leave {sum(base)} of {len(base)}, of which {name} makes "
                f"{alone} wrong"
            )
            if beaten and alone >= least * len(base):
                return Finding(check, "flag", f"{text[0].upper()}{text[1:]}.", step)
            (noted if beaten else compared).append(text)
    text = "; ".join(noted or compared)
    text = f"{text[0].upper()}{text[1:]}."
    return Finding(check, "note", text, step) if noted else Finding(check, "passed", text)


def beats(
    view: AttackedView,
    referee: Bool[np.ndarray, " b"],
    base: Bool[np.ndarray, " b"],
    num_tests: int = 1,
) -> tuple[bool, int]:
    """Returns whether a referee beats gradients, and how many images it alone makes wrong."""
    if view.random:
        return outranks(referee.tolist(), base.tolist(), num_tests=num_tests)
    # No draw decides: what gradients find and the referee does not says nothing for them, and
    # what they miss they should have found.
    return outranks((referee & base).tolist(), base.tolist())
