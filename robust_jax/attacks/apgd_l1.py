"""APGD in L1: steps of few pixels, ever fewer, in balls that shrink to the one asked for."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.runs import Found, Path, keep_better, nothing
from robust_jax.attacks.sparsity import at_least_the_largest
from robust_jax.attacks.threat import ThreatModel, expand, size
from robust_jax.types import Images, KeyArray, Labels, View

FEWER = 1.5
"""A step changes the number of values that x_max has changed, over this."""

SLOWER = 1.5
"""What the step eta is divided by at a checkpoint where x_max stays as dense as it was."""

SHORTEST = 10
"""eta lies between eps over this, and eps, where it starts again when x_max becomes sparser."""

SPARSER = 0.95
"""x_max is sparser when its number of changed values is below this share of the one before."""


class Plan(NamedTuple):
    """What happens at each evaluation of the network, in turn.

    Attributes:
        radius: of the ball, as a multiple of eps.
        starts: does a phase start here, which evaluates its start?
        reviewed: is it a checkpoint?
        steps: taken so far, with this one.
    """

    radius: np.ndarray
    starts: np.ndarray
    reviewed: np.ndarray
    steps: np.ndarray


def phases(num_steps: int) -> list[tuple[float, int]]:
    """Returns the radii, as multiples of eps, and how many of the steps are made in each.

    Three tenths in 3 eps, as many in 2 eps, the rest in eps; all in eps where none would be left.
    """
    early = math.ceil(0.3 * num_steps)
    if num_steps <= 2 * early:
        return [(1.0, num_steps)]
    return [(3.0, early), (2.0, early), (1.0, num_steps - 2 * early)]


def plan(num_steps: int) -> Plan:
    """Returns what happens when; a checkpoint comes after every 4 % of a phase's steps."""
    rows, taken = [], 0
    for radius, length in phases(num_steps):
        every = max(int(0.04 * length), 1)
        rows.append((radius, True, False, taken))
        for step in range(1, length + 1):
            taken += 1
            rows.append((radius, False, step % every == 0, taken))
    radius, starts, reviewed, steps = zip(*rows, strict=True)
    return Plan(np.array(radius), np.array(starts), np.array(reviewed), np.array(steps, np.int32))


class _State(NamedTuple):
    """What is carried from step to step; rows are examples."""

    x: Images
    gradient: Images  # of f at x
    eta: Float[Array, " b"]
    num_moved: Int[Array, " b"]  # values that a step changes (k)
    x_max: Images
    gradient_max: Images
    f_max: Float[Array, " b"]
    num_changed: Float[Array, " b"]  # values in which x_max was not clean at the last checkpoint
    best: Found  # of the phase
    path: Path | None


def climb(
    view: View,
    images: Images,
    labels: Labels,
    keys: Key[Array, " b"],
    *,
    loss_fn: losses.Loss,
    threat: ThreatModel,
    num_steps: int,
    key: KeyArray,
    watched: bool = False,
) -> Found:
    """Returns the best point, in the ball, of one run of multi-eps APGD in L1.

    A step of length eta goes along the signs of the k largest derivatives, to the nearest point of
    ball and box. At a checkpoint k becomes the number of values that x_max has changed, over 1.5;
    eta becomes eps again, and the search goes on from x_max, where that number has fallen by 5 %,
    and is divided by 1.5 elsewhere. Every phase but the first begins at the x_max of the last one.

    Args:
        view: the model under attack.
        images: clean images.
        labels: class of each image.
        keys: of each example's random start.
        loss_fn: f, which is raised.
        threat: the ball, in L1.
        num_steps: of all phases together; each evaluates its start besides.
        key: root of the view's draws.
        watched: is the path noted?

    References:
        Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
        classifiers", 2021 (algorithm 1, section 3.3).
    """
    planned = plan(num_steps)
    num_rows, dtype, num_values = len(images), images.dtype, math.prod(images.shape[1:])
    radius = jnp.asarray(planned.radius, dtype)
    starts, reviewed, steps = (jnp.asarray(each) for each in planned[1:])

    def pick(mask, yes, no):
        return jnp.where(expand(mask, yes), yes, no)

    def stepped(state):
        flat = jnp.abs(state.gradient).reshape(num_rows, -1)
        kept = at_least_the_largest(flat, state.num_moved).reshape(images.shape)
        signs = jnp.where(kept, jnp.sign(state.gradient), 0)
        return state.x + expand(state.eta / jnp.maximum(size("l1", signs), 1), images) * signs

    def fewer(num_changed):
        return jnp.clip(jnp.ceil(num_changed / FEWER), 1, num_values).astype(jnp.int32)

    def step(number, state):
        eps = jnp.full(num_rows, threat.eps, dtype) * radius[number]
        towards = jnp.where(starts[number], state.x_max, stepped(state))
        x = threat.project(towards, images, eps=eps)
        num_changed = size("l0_values", x - images)
        begun = state._replace(
            eta=eps,
            num_moved=fewer(num_changed),
            num_changed=num_changed,
            f_max=jnp.full_like(state.f_max, -jnp.inf),
            best=nothing(x, loss),
        )
        state = jax.tree.map(lambda a, b: jnp.where(starts[number], a, b), begun, state)
        gradient, f, logits = losses.gradient(
            loss_fn, view, x, labels, key=rng.stream(key, "step", number)
        )
        success = losses.misclassified(logits, labels)
        higher = f > state.f_max
        x_max = pick(higher, x, state.x_max)
        gradient_max = pick(higher, gradient, state.gradient_max)
        num_changed = size("l0_values", x_max - images)
        sparser = num_changed < SPARSER * state.num_changed
        eta = jnp.where(sparser, eps, jnp.maximum(state.eta / SLOWER, eps / SHORTEST))
        check = reviewed[number]
        again = sparser & check
        path = state.path
        if path is not None:
            # In larger balls a loss is no one's that is asked for.
            asked = radius[number] == 1
            path = path.noted(steps[number], jnp.where(asked, f, jnp.nan), success & asked)
        return _State(
            x=pick(again, x_max, x),
            gradient=pick(again, gradient_max, gradient),
            eta=jnp.where(check, eta, state.eta),
            num_moved=jnp.where(check, fewer(num_changed), state.num_moved),
            x_max=x_max,
            gradient_max=gradient_max,
            f_max=jnp.where(higher, f, state.f_max),
            num_changed=jnp.where(check, num_changed, state.num_changed),
            best=keep_better(state.best, Found(x, success, f)),
            path=path,
        )

    loss = jax.eval_shape(lambda: losses.evaluate(loss_fn, view, images, labels, key=key)[0])
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], dtype))(keys)
    zeros = jnp.zeros(num_rows, dtype)
    state = _State(
        x=images,
        gradient=jnp.zeros_like(images),
        eta=zeros,
        num_moved=jnp.ones(num_rows, jnp.int32),
        x_max=images + noise,  # projected where the first phase starts
        gradient_max=jnp.zeros_like(images),
        f_max=jnp.full(num_rows, -jnp.inf, loss.dtype),
        num_changed=zeros,
        best=nothing(images, loss),
        path=Path.empty(num_steps, loss) if watched else None,
    )
    state = jax.lax.fori_loop(0, len(planned.steps), step, state)
    return state.best._replace(path=state.path)
