"""Indicators of attack failure that need the way an attack took, not only its end.

References:
    Pintor et al., "Indicators of attack failure: debugging and improving optimization of
    adversarial examples", 2022 (silent success, incomplete optimisation).
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from robust_jax import rng, serialization
from robust_jax.attacks import BoundedAttack, bind, losses, trajectory
from robust_jax.attacks.trajectories import has_trajectory
from robust_jax.evaluation.attack_runs import AttackRun
from robust_jax.evaluation.judging import seen_by
from robust_jax.evaluation.sanity.findings import Finding
from robust_jax.evaluation.sanity.probed import Probed
from robust_jax.runtime.compilation import jitted
from robust_jax.types import View

FORGOTTEN = 0.02
"""Share of the images of which an attack may forget that it had fooled them."""

STILL_RISING = 0.2
"""Share of the rise of the loss that may fall into the last quarter of the steps.

A loss that rises evenly to the end has .25 there; PGD-20 has .01 to .05 on networks trained against
attacks, and .16 on a public ResNet-20, of which twice the steps break no more.
"""

SMALLEST = 1e-7
"""A cross-entropy below which float32 leaves nothing of it."""

FEW_STEPS, FEW_IMAGES = 4, 5
"""Fewer steps have no last quarter, fewer standing images no mean."""


def indicators(probed: Probed, *, key: Key[Array, ""]) -> list[Finding]:
    """Returns whether the evaluation's own attacks in steps forget successes, and whether they end.

    Both by what the attack goes by: the view that it sees and, of members, the vote that it knows.

    Args:
        probed: the model, images and the evaluation.
        key: root of all draws.
    """
    images, labels = probed.images, probed.labels
    forgotten: dict[str, float] = {}
    rising: dict[str, float] = {}
    for name, run, view in _watched(probed):
        found = jitted(lambda view, images, labels, key, attack=run.attack: trajectory(
            attack, view, images, labels, key=key
        ))(view, images, labels, key)  # fmt: skip
        decide = jitted(lambda view, images, key, attack=run.attack: attack.success_scores(
            view(images, key=key)
        ))  # fmt: skip
        first, again = (
            decide(view, found.images, rng.stream(key, "judge", number)) for number in (0, 1)
        )
        stands = np.asarray(~losses.misclassified(first, labels))
        if bool(jnp.all(first == again)):
            # Of a random view a success is a lucky draw, which may well be forgotten.
            successes = np.asarray(found.successes)
            once, ended = successes.any(axis=(0, 1)), successes[:, -1].all(axis=0)
            # Whose every run ends in what it takes for a success has forgotten none, if a vote says
            # otherwise: ARC's is that all members are wrong, of which their mean may be right.
            forgotten[name] = float(np.mean(once & ~ended & stands))
        way = np.asarray(found.losses, np.float64)[0][:, stands]
        way = way[~np.isnan(way).any(axis=1)]  # the points that lie in the ball
        if len(way) > FEW_STEPS and stands.sum() >= FEW_IMAGES:
            if getattr(run.attack, "loss", None) == "cross_entropy":
                # Where a class is almost sure it is e^-margin, which rises late in any case.
                way = np.log(np.expm1(np.maximum(way, SMALLEST)))
            rising[name] = share_of_last_quarter(way)
    return [_silent_success(forgotten), _incomplete(rising)]


def share_of_last_quarter(values: Float[np.ndarray, "t b"]) -> float:
    """Returns how much of the rise of a mean loss falls into the last quarter of the steps.

    The largest loss so far counts, so that a way up that oscillates is not taken for a rise.

    Args:
        values: loss at the start and after every step, by image.
    """
    highest = np.maximum.accumulate(np.mean(values, axis=1))
    rise = highest[-1] - highest[0]
    num_steps = len(highest) - 1
    late = highest[-1] - highest[num_steps - max(num_steps // 4, 1)]
    return float(late / rise) if rise > 0 else 0.0


def _watched(probed: Probed) -> Iterator[tuple[str, AttackRun, View]]:
    """Yields the attacks in steps and their views; of those that differ in eps alone the first."""
    seen = set()
    for name, run in probed.attacks.items():
        attack = run.attack
        if run.source is not None or attack.targeted or not isinstance(attack, BoundedAttack):
            continue
        if not has_trajectory(attack) or attack.threat.eps == 0:
            continue
        described = _without_eps(serialization.to_json(attack))
        length = getattr(attack, "step_size", None)
        if length is not None:  # a step that follows eps belongs to it
            length, described["step_size"] = round(length / attack.threat.eps, 6), 1.0
        kind_of = repr(described), length
        if (kind_of, run.view, run.eot_samples, run.draws) not in seen:
            seen.add((kind_of, run.view, run.eot_samples, run.draws))
            view: View = bind(probed.method.view(run.view), probed.variables)
            yield name, run, seen_by(run, view, probed.seed)


def _without_eps(described: dict[str, object]) -> dict[str, object]:
    """Returns an attack as JSON, and the attacks in it, without the radii of their balls."""
    return {
        name: _without_eps(value) if isinstance(value, dict) else value
        for name, value in described.items()
        if name != "eps"
    }


def _silent_success(forgotten: dict[str, float]) -> Finding:
    check = "attacks return what they find (silent success)"
    if not forgotten:
        return Finding(check, "not run", "No attack in steps on a view without randomness.")
    name = max(forgotten, key=lambda name: forgotten[name])
    text = (
        f"Of {len(forgotten)} kinds of attacks in steps {name} most often passes an adversarial "
        f"image and returns another one: on {100 * forgotten[name]:.1f} % of the images."
    )
    if forgotten[name] <= FORGOTTEN:
        return Finding(check, "passed", text)
    step = "Keep the best point on the way, not the last one (keep='best', APGD)."
    return Finding(check, "flag", text, step)


def _incomplete(rising: dict[str, float]) -> Finding:
    check = "optimisation has ended (incomplete optimisation)"
    if not rising:
        text = f"No attack of {FEW_STEPS} steps and more leaves {FEW_IMAGES} images standing."
        return Finding(check, "not run", text)
    name = max(rising, key=lambda name: rising[name])
    text = (
        f"Of {len(rising)} kinds of attacks in steps {name} raises the loss of the images that "
        f"stand longest: {100 * rising[name]:.0f} % of the rise falls into the last quarter of the "
        "steps."
    )
    if rising[name] <= STILL_RISING:
        return Finding(check, "passed", text)
    return Finding(check, "flag", text, "Take more steps or longer ones until the loss stays.")
