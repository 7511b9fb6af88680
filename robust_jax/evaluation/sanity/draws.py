"""Do the evaluation's attacks average enough draws of a random model?"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from robust_jax import rng
from robust_jax.attacks import BoundedAttack, bind, standing_with_twice_the_draws
from robust_jax.evaluation.attack_runs import AttackRun
from robust_jax.evaluation.judging import predictor
from robust_jax.evaluation.sanity.findings import Finding, outranks
from robust_jax.evaluation.sanity.probed import Probed
from robust_jax.runtime.compilation import jitted
from robust_jax.types import View

CHECK = "enough draws (EOT)"

CHANGE = 0.01
"""Drop of robust accuracy, when the draws are doubled, that is let pass."""


def enough_draws(probed: Probed, *, key: Key[Array, ""]) -> Finding:
    """Returns a flag where twice the draws make the attack of most draws stronger.

    Both runs have the same keys and are decided by the judge that counts under the same draws.
    A drop of 1 % or more that chance explains on so few images is a note.

    Args:
        probed: the model, images and the evaluation.
        key: root of all draws.
    """
    method, variables, images, labels, attacks, judge, seed = probed
    name = _most_draws(probed, key)
    if name is None:
        text = "No bounded white-box attack sees fresh draws of a random model."
        step = "Attack the deployed view with eot_samples > 1." if method.stochastic else ""
        return Finding(CHECK, "not run", text, step)
    run = attacks[name]
    decide = jitted(predictor(method, judge, seed))
    once, twice = standing_with_twice_the_draws(
        # Traced, so that a view of probabilities is another check's finding and no error here.
        jitted(lambda view, images, labels, *, key: run.attack(view, images, labels, key=key)),
        bind(method.view(run.view), variables),
        images,
        labels,
        num_samples=run.eot_samples,
        judge=lambda images, *, key: jnp.mean(decide(variables, images, key=key), axis=0),
        key=rng.stream(key, "draws"),
        average="probabilities",
    )
    before, after = float(jnp.mean(once)), float(jnp.mean(twice))
    text = (
        f"{name} leaves {100 * before:.1f} % of {len(images)} images with {run.eot_samples} draws, "
        f"{100 * after:.1f} % with {2 * run.eot_samples}."
    )
    if before - after < CHANGE:
        return Finding(CHECK, "passed", text)
    beyond_chance, _ = outranks(twice.tolist(), once.tolist())
    # The test counts images, which of a method that draws once a call are no trials of their own.
    if beyond_chance and method.draws_per == "row":
        step = "Double eot_samples until the accuracy changes by less than 1 %."
        return Finding(CHECK, "flag", text, step)
    step = f"{len(images)} images cannot tell this from chance: try twice the eot_samples on all."
    return Finding(CHECK, "note", text, step)


def _most_draws(probed: Probed, key: Array) -> str | None:
    """Returns the attack with most draws of those whose view is random; None without one."""

    def sees_draws(run: AttackRun) -> bool:
        attack = run.attack
        if run.source is not None or run.draws == "fixed" or not isinstance(attack, BoundedAttack):
            return False
        return attack.needs_logits and not attack.on_host and not attack.targeted

    method = probed.method
    if not method.stochastic:
        return None
    runs = {name: run for name, run in probed.attacks.items() if sees_draws(run)}
    random: dict[str, bool] = {}
    for name in sorted(runs, key=lambda name: -runs[name].eot_samples):
        view = runs[name].view
        if view not in random:
            random[view] = _is_random(bind(method.view(view), probed.variables), probed.images, key)
        if random[view]:
            return name
    return None


def _is_random(view: View, images: Array, key: Array) -> bool:
    logits = jitted(lambda view, images, key: view(images, key=key))
    two = [np.asarray(logits(view, images, rng.stream(key, "draw", n))) for n in (0, 1)]
    return not np.array_equal(two[0], two[1], equal_nan=True)
