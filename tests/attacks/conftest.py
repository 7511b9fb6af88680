"""A small network trained on real digits, and a linear model: what the attacks are tried on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from robust_jax import attacks
from robust_jax.attacks import losses
from robust_jax.attacks.threat import distance


class Victim(NamedTuple):
    """A view, and correctly classified images with their labels."""

    view: Any
    images: jax.Array
    labels: jax.Array


def network(params, images, *, key=None):
    """Logits of a two-layer network; smooth, so that rounding flips no gradient."""
    del key
    hidden = jax.nn.gelu(images.reshape(images.shape[0], -1) @ params["w1"] + params["b1"][None])
    return hidden @ params["w2"] + params["b2"][None]


@pytest.fixture(scope="session")
def many_digits() -> Victim:
    """A network of 64-32-10 units on 8 x 8 digits, and 64 images that it gets right."""
    data = load_digits()
    images = jnp.asarray(data.images[..., None] / 16, jnp.float32)
    labels = jnp.asarray(data.target, jnp.int32)
    key = jax.random.key(0)
    params = {
        "w1": jax.random.normal(jax.random.fold_in(key, 1), (64, 32)) / 8,
        "b1": jnp.zeros(32),
        "w2": jax.random.normal(jax.random.fold_in(key, 2), (32, 10)) / 6,
        "b2": jnp.zeros(10),
    }

    @jax.jit
    def train(params):
        def loss(params):
            logits = network(params, images[:1000])
            return jnp.mean(losses.cross_entropy(logits, labels[:1000]))

        def step(carry, _):
            params, velocity = carry
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, jax.grad(loss)(params))
            return (jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity), velocity), None

        still = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(step, (params, still), None, length=150)[0][0]

    params = train(params)
    right = np.flatnonzero(np.argmax(network(params, images), axis=1) == labels)
    rows = right[right >= 1000][:64]
    return Victim(attacks.bind(network, params), images[rows], labels[rows])


@pytest.fixture(scope="session")
def digits(many_digits) -> Victim:
    """The same network and the first 16 of its images."""
    return Victim(many_digits.view, many_digits.images[:16], many_digits.labels[:16])


@pytest.fixture(scope="session")
def integer_digits() -> Victim:
    """The nearest mean digit, found in integers, and the 16 images that it just gets right.

    For searches that follow every decision, or the sign of every derivative: rounding, which
    differs between numbers of rows, devices and machines, decides nothing here. The derivatives
    are those without rounding to integers, and integers too.
    """
    data = load_digits()
    means = [data.images[data.target == digit].mean(axis=0).ravel() for digit in range(10)]
    means = jnp.asarray(np.rint(means), jnp.float32)
    squares = jnp.sum(means**2, axis=1)[None]

    def logits(images):
        """Twice the scalar products less the means' squares, below float32's 2^24."""
        pixels = images.reshape(-1, 64) * 4096
        pixels = pixels + jax.lax.stop_gradient(jnp.rint(pixels) - pixels)
        return 2 * pixels @ means.T - 256 * squares

    images = jnp.asarray(data.images[..., None] / 16, jnp.float32)
    labels = jnp.asarray(data.target, jnp.int32)
    gaps = losses.margin(logits(images), labels)  # negative where it is right
    rows = np.argsort(np.where(gaps < 0, -gaps, np.inf))[:16]
    return Victim(attacks.as_view(logits), images[rows], labels[rows])


@pytest.fixture(scope="session")
def linear() -> Victim:
    """Two classes whose logit difference is linear, and images well inside the box."""
    weights = jax.random.normal(jax.random.key(3), (12, 2)) / 3
    images = 0.5 + 0.05 * jax.random.normal(jax.random.key(4), (8, 2, 2, 3))
    labels = jnp.argmax(images.reshape(8, 12) @ weights, axis=1)

    def logits(images):
        return images.reshape(images.shape[0], 12) @ weights

    return Victim(attacks.as_view(logits), images, labels)


@pytest.fixture(scope="session")
def exact(linear):
    """Distances of the linear model's boundary, by norm."""
    weights = jax.grad(lambda x: jnp.diff(linear.view(x[None], key=None)[0])[0])(linear.images[0])
    gaps = jnp.abs(losses.margin(linear.view(linear.images, key=None), linear.labels))
    return {
        "linf": gaps / jnp.abs(weights).sum(),
        "l2": gaps / jnp.linalg.norm(weights),
        "l1": gaps / jnp.abs(weights).max(),
    }


@pytest.fixture(scope="session")
def fewest(linear):
    """Returns how few: values of largest effect, each moved to its bound, until the sign turns."""
    labels = linear.labels
    weights = jax.grad(lambda x: jnp.diff(linear.view(x[None], key=None)[0])[0])(linear.images[0])
    towards = jnp.where(labels == 0, 1.0, -1.0)[:, None, None, None] * weights[None]
    room = jnp.where(towards > 0, 1 - linear.images, linear.images)
    effects = jnp.sort((jnp.abs(towards) * room).reshape(8, -1), axis=1)[:, ::-1]
    logits = linear.view(linear.images, key=None)
    gaps = jnp.abs(logits[:, 1] - logits[:, 0])
    return 1 + jnp.sum(jnp.cumsum(effects, axis=1) <= gaps[:, None], axis=1)


@pytest.fixture(scope="session")
def assert_exact(linear, exact):
    """A function that holds an attack to those distances.

    Every image is fooled, none nearer than the boundary, most not farther than by the slack.
    """

    def check(attack, norm, slack):
        adversarial = attack(*linear, key=jax.random.key(19))
        decisions = jnp.argmax(linear.view(adversarial, key=None), axis=1)
        assert jnp.all(decisions != linear.labels)
        ratio = distance(norm, adversarial, linear.images) / exact[norm]
        assert float(ratio.min()) >= 0.999
        # The nearest image of all may be closer than one step; the others are close to exact.
        assert float(jnp.median(ratio)) <= 1 + slack

    return check
