"""Balls in L2: the closed form of linear functions, draws and an attack, and the box around."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from robust_jax.attacks import PGD, ThreatModel, as_view
from robust_jax.certify import Margins, SlopeAscent, crown_margins

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(9, 4)).astype(np.float32)
BIAS = RNG.normal(size=4).astype(np.float32)
VECTORS = RNG.uniform(0.3, 0.7, (4, 9)).astype(np.float32)
LABELS = np.asarray([0, 1, 2, 3])


def linear(x):
    return x @ WEIGHTS + BIAS[None]


@pytest.mark.slow
def test_linear_functions_are_exact():
    """The dual norm is L2 too; where the box around the ball is cut, the box may be the tighter."""
    difference = WEIGHTS.T[LABELS][:, None] - WEIGHTS.T[None]
    centre = np.einsum("bcf,bf->bc", difference, VECTORS) + BIAS[LABELS][:, None] - BIAS[None]
    length = np.linalg.norm(difference, axis=2)
    found = crown_margins(linear, VECTORS, LABELS, 0.2, norm="l2")
    np.testing.assert_allclose(found, centre - 0.2 * length, atol=1e-5)
    whole = np.minimum(difference, 0).sum(2) + BIAS[LABELS][:, None] - BIAS[None]
    found = crown_margins(linear, VECTORS, LABELS, 9.0, norm="l2")
    np.testing.assert_allclose(found, np.maximum(whole, centre - 9 * length), atol=1e-5)
    certified = Margins(0.2, norm="l2")(linear, VECTORS, LABELS)
    expected = np.min(np.where(length > 0, centre - 0.2 * length, np.inf), axis=1)
    np.testing.assert_allclose(certified.margin, expected, atol=1e-5)
    looser = Margins(0.2, norm="l2", bound="interval")(linear, VECTORS, LABELS)
    assert np.all(looser.margin < certified.margin)


KERNEL = (RNG.normal(size=(3, 3, 2, 4)) / 3).astype(np.float32)
MATRIX = (RNG.normal(size=(64, 4)) / 4).astype(np.float32)


def convolved(x):
    """Returns logits of images whose rows are windows, which stick out of the image."""
    x = lax.conv_general_dilated(
        x - 0.5, KERNEL, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = nn.relu(x)
    return nn.silu(x.reshape(len(x), -1) - 0.1) @ MATRIX


@pytest.mark.slow
@pytest.mark.parametrize("ascent", [None, SlopeAscent(num_steps=3)])
def test_no_image_of_a_ball_is_below_its_bound(ascent):
    images, eps = RNG.uniform(0.1, 0.9, (4, 8, 8, 2)).astype(np.float32), 0.1
    logits = jax.jit(convolved)
    labels = np.argmax(logits(images), axis=1)
    found = np.asarray(crown_margins(convolved, images, labels, eps, norm="l2", ascent=ascent))
    box = np.asarray(crown_margins(convolved, images, labels, eps, ascent=ascent))
    other = np.arange(4)[None] != labels[:, None]
    assert np.all(found[other] > box[other])

    def smallest_of(values):
        values = np.asarray(values).reshape(-1, 4, 4)
        return np.min(values[:, np.arange(4), labels][..., None] - values, axis=0)

    directions = RNG.normal(size=(500, *images.shape))
    directions /= np.linalg.norm(directions.reshape(500, 4, -1), axis=2)[..., None, None, None]
    attack = PGD(ThreatModel("l2", eps), num_steps=20)
    attacked = attack(as_view(convolved), images, labels, key=jax.random.key(0))
    near = np.concatenate([images[None] + eps * directions, np.asarray(attacked)[None]])
    near = np.clip(near, 0, 1).astype(np.float32)
    smallest = smallest_of(logits(near.reshape(-1, 8, 8, 2)))
    assert np.all(found <= smallest + 1e-4)
    # Every image's margins are proven down to half of what the box around the ball leaves open.
    clean = smallest_of(logits(images))
    open_ = [np.sum((clean - each)[other]) for each in (found, box)]
    assert open_[0] < 0.5 * open_[1]


@pytest.mark.usefixtures("without_type_checks")
def test_other_norms_are_none():
    for call in (
        lambda: crown_margins(linear, VECTORS, LABELS, 0.1, norm="l1"),
        lambda: Margins(0.1, norm="l1"),
    ):
        with pytest.raises(ValueError, match="Expected norm='l1' to be one of"):
            call()
