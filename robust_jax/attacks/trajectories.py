"""The way that an attack in steps takes: its loss at every step, for plots and for doubts."""

from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from robust_jax.attacks.base import Attack
from robust_jax.attacks.bounded import BoundedAttack
from robust_jax.attacks.runs import Found, Given, Number, best_among, nothing
from robust_jax.runtime.live import compiled
from robust_jax.types import KeyArray, View


class Trajectory(NamedTuple):
    """What an attack in steps returns, and how it came to it.

    Attributes:
        images: the adversarial images, as a call gives them.
        losses: what is raised, of each run (restart, target) at its start and after every step;
            NaN at the first points of APGD in L1, which are in larger balls.
        successes: where the goal is reached, likewise.

    Example:
        >>> from robust_jax.attacks import FGSM, ThreatModel, as_view, trajectory
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> attack = FGSM(ThreatModel("linf", 0.1))
        >>> found = trajectory(attack, view, images, labels, key=jax.random.key(0))
        >>> found.successes[0, :, 0].tolist()  # of the one run, at the start and after the step
        [False, True]
    """

    images: Float[Array, "b ..."]
    losses: Float[Array, "r t b"]
    successes: Bool[Array, "r t b"]


def trajectory(
    attack: Attack,
    view: View,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    key: KeyArray,
    index: ArrayLike | None = None,
) -> Trajectory:
    """Returns the adversarial images that a call gives, and the loss at every step.

    Args:
        attack: one in steps: FGSM, BIM, MIM, PGD, MDI2FGSM, APGD, APGDT, ARC, MORA.
        view: as in a call.
        images: as in a call.
        labels: as in a call.
        key: as in a call.
        index: as in a call.

    Raises:
        ValueError: another attack, or shapes and dtypes do not fit.

    Example:
        >>> from robust_jax.attacks import BIM, ThreatModel, as_view, trajectory
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> attack = BIM(ThreatModel("linf", 0.1), num_steps=8)
        >>> losses = trajectory(attack, view, images, labels, key=jax.random.key(0)).losses
        >>> losses.shape, bool((jnp.diff(losses, axis=1) > 0).all())
        ((1, 9, 1), True)
    """
    if not has_trajectory(attack):
        raise ValueError(
            f"Expected attack={type(attack).__name__} to be one in steps (FGSM, BIM, MIM, PGD, "
            "MDI2FGSM, APGD, APGDT, ARC, MORA)."
        )
    return _follow(attack, attack.prepared(view, images, labels, key=key, index=index))


def has_trajectory(attack: Attack) -> TypeGuard[BoundedAttack]:
    """Returns whether an attack goes in steps that can be watched."""
    return isinstance(attack, BoundedAttack) and attack.in_steps


@compiled
def _follow(attack: BoundedAttack, given: Given) -> Trajectory:
    view, images = jax.lax.stop_gradient((given.view, given.images))
    given = given._replace(view=view, images=images)

    targets = attack.targets(given)

    def run(number: Number) -> Found:
        return attack.run(attack.planned(number, targets)._replace(watched=True), given)

    ends = jax.lax.map(run, jnp.arange(attack.num_runs))
    path, ends = ends.path, ends._replace(path=None)
    if attack.num_runs == 1:
        return Trajectory(ends.images[0], *path)
    loss = jax.ShapeDtypeStruct(ends.loss.shape[1:], ends.loss.dtype)
    return Trajectory(best_among(ends, nothing(images, loss)).images, *path)
