"""REGroup's ablations against the method itself with so many layers and such signs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import analysis, voting
from robust_jax.methods import REGroup
from robust_jax.models import CNNConfig
from robust_jax.types import Batch, Task

TASK = Task((6, 6, 1), 3, 30)
CONFIG = REGroup(network=CNNConfig(widths=(8, 8), strides=(1, 2)), num_layers=3)


@pytest.mark.slow
def test_every_depth_and_sign_is_the_method_of_that_depth_and_sign():
    method = CONFIG.make(TASK)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (30, 6, 6, 1))
    # The untrained network's own classes, so that it is right and every class has members.
    logits = jax.jit(method.view("surrogate"))(variables, images, key=None)
    variables = jax.tree.map(lambda leaf: leaf, dict(variables))
    linear = variables["params"]["backbone"]["linear"]
    variables["params"]["backbone"]["linear"] = {
        "kernel": linear["kernel"] * 50,
        "bias": 50 * (linear["bias"] - jnp.median(logits, axis=0)),
    }
    logits = jax.jit(method.view("surrogate"))(variables, images, key=None)
    labels = jnp.argmax(logits, axis=-1)
    assert len(np.unique(labels)) == 3
    batch = Batch(images, labels, jnp.ones(30, bool), jnp.arange(30))
    fitted = method.fit(variables, [batch], key=None)
    scores = jax.jit(method.view("members"))(fitted, images, key=None)
    assert scores.shape == (6, 30, 3)
    for signs, depths in (("positive", (2,)), ("negative", (2,)), ("both", (1, 2, 3))):
        found = jax.jit(analysis.layer_votes, static_argnames="signs")(scores, labels, signs=signs)
        for k in depths:
            config = dataclasses.replace(CONFIG, num_layers=k, responses=signs)
            decided = jnp.argmax(jax.jit(config.make(TASK).predict)(fitted, images), axis=-1)
            np.testing.assert_array_equal(found.by_depth[k - 1], decided == labels)
        np.testing.assert_array_equal(found.by_layer[-1], found.by_depth[0])


@pytest.mark.slow
def test_layers_alone_by_hand():
    """The first layer is right by its positive response, the last by neither."""
    positive = [[[3.0, 2, 1]], [[1.0, 2, 3]]]
    negative = [[[3.0, 1, 2]], [[1.0, 3, 2]]]
    scores = jnp.array(positive + negative)
    found = analysis.layer_votes(scores, jnp.array([0]))
    assert found.by_layer.tolist() == [[True], [False]]
    # Points: 4 for class 0, then 0, 3, 3 from the last layer: 4, 4, 4: the lowest class wins.
    total = voting.borda(scores)
    np.testing.assert_allclose(total, [[4, 4, 4]])
    assert found.by_depth.tolist() == [[False], [True]]


def test_what_is_no_pair_of_responses():
    with pytest.raises(ValueError, match="Expected voters=3 to be even"):
        analysis.layer_votes(jnp.zeros((3, 1, 2)), jnp.array([0]))
    with pytest.raises(ValueError, match="Expected signs='none' to be one of"):
        analysis.layer_votes(jnp.zeros((2, 1, 2)), jnp.array([0]), signs="none")
