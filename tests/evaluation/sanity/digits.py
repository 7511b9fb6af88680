"""A small network on real digits, sound or adversarially trained, and methods made of one view."""

import jax
import jax.numpy as jnp

from robust_jax.attacks import losses
from robust_jax.methods import Method

HIDDEN = 64


def network(params, images):
    hidden = jax.nn.gelu(images.reshape(images.shape[0], -1) @ params["w1"])
    return hidden @ params["w2"]


def method(view, *, stochastic=False, **views) -> Method:
    """A method whose every rule is one view."""
    nothing = lambda **_: {}  # noqa: E731
    return Method(nothing, nothing, view, {"deployed": view, **views}, stochastic)


def trained(data, *, eps: float):
    """Arrays of a network after 200 steps, on PGD's images inside the step where eps is given."""
    images = jnp.asarray(data.train.arrays[0] / 255, jnp.float32)
    labels = jnp.asarray(data.train.arrays[1], jnp.int32)
    key = jax.random.key(0)
    start = {
        "w1": jax.random.normal(jax.random.fold_in(key, 1), (64, HIDDEN)) / 8,
        "w2": jax.random.normal(jax.random.fold_in(key, 2), (HIDDEN, 10)) / 8,
    }

    def loss(params, images):
        return jnp.mean(losses.cross_entropy(network(params, images), labels))

    @jax.jit
    def train(params):
        def step(carry, _):
            params, velocity = carry
            attacked = images
            for _ in range(3 if eps else 0):
                slope = jax.grad(loss, argnums=1)(params, attacked)
                moved = jnp.clip(attacked + eps / 2 * jnp.sign(slope), images - eps, images + eps)
                attacked = jnp.clip(moved, 0, 1)
            slopes = jax.grad(loss)(params, attacked)
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, slopes)
            return (jax.tree.map(lambda p, v: p - 0.2 * v, params, velocity), velocity), None

        still = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(step, (params, still), None, length=200)[0][0]

    return train(start)
