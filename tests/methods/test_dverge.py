"""DVERGE: features by hand, the distillation and the loss by plain loops, the layer of an epoch."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import DVERGE, Epochs
from robust_jax.methods.dverge import pre_activations
from robust_jax.methods.runs import Member, cross_entropy
from robust_jax.models import (
    Classifier,
    CNNConfig,
    EnsembleConfig,
    ResNetConfig,
    default_layers,
    member_variables,
)
from robust_jax.types import Batch, Task

CONFIG = DVERGE(
    network=EnsembleConfig(CNNConfig(widths=(4, 5), strides=(2, 1)), 3), num_steps=3, step_size=0.03
)
TASK = Task((6, 6, 1), 4, 47)
IMAGES = jax.random.uniform(jax.random.key(0), (5, 6, 6, 1))
LABELS = jnp.asarray([0, 3, 1, 2, 3])
BATCH = Batch(IMAGES, LABELS, jnp.ones(5, bool), jnp.arange(5))
MODE = {"train": True, "deterministic": True, "mutable": ["batch_stats"]}
MEMBER = CONFIG.classifier(TASK, member=True)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda key: CONFIG.make(TASK).init(key=key))(jax.random.key(1))


def distilled_by_loops(alone, layer):
    """Returns one member's distilled images: the neighbour's features, one step at a time."""

    def distance(x):
        wanted = pre_activations(Member(MEMBER, alone, IMAGES), jnp.roll(IMAGES, 1, axis=0))[layer]
        return jnp.mean((pre_activations(Member(MEMBER, alone, IMAGES), x)[layer] - wanted) ** 2)

    slope = jax.jit(jax.value_and_grad(distance))
    x, total = np.asarray(IMAGES), np.zeros(IMAGES.shape, np.float32)
    distances = []
    for _ in range(CONFIG.num_steps):
        value, g = slope(x)
        distances.append(float(value))
        g = np.asarray(g)
        total = total + g / np.abs(g).sum((1, 2, 3), keepdims=True)
        x = x - CONFIG.step_size * np.sign(total)
        x = np.clip(np.clip(x, IMAGES - CONFIG.eps, IMAGES + CONFIG.eps), 0, 1)
    assert distances[-1] < distances[0]
    return jnp.asarray(x)


@pytest.mark.slow
def test_features_are_inputs_of_activations(variables):
    alone = member_variables(variables, 0)
    found = pre_activations(Member(MEMBER, alone, IMAGES), IMAGES)
    outputs, _ = MEMBER.apply(alone, IMAGES, **MODE)
    taps = outputs.taps["00.conv1"]
    by_hand = (taps - taps.mean((0, 1, 2))[None, None, None]) / jnp.sqrt(
        taps.var((0, 1, 2))[None, None, None] + 1e-5
    )
    np.testing.assert_allclose(found[0], by_hand, rtol=1e-3, atol=1e-4)
    assert len(found) == 3
    np.testing.assert_allclose(found[-1], outputs.logits, rtol=1e-5)


def test_a_resnet20_has_twenty_layers():
    network = Classifier(ResNetConfig(depth=20, widths=(2, 4, 8)).make(3, default_layers()))
    images = jnp.zeros((2, 8, 8, 1))

    def shapes(key):
        fresh = network.init(key, images, train=False, deterministic=True)
        return pre_activations(Member(network, fresh, images), images)

    found = jax.eval_shape(shapes, jax.random.key(0))
    assert [each.shape[-1] for each in found] == [2] * 7 + [4] * 6 + [8] * 6 + [3]


@pytest.mark.parametrize("layer", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_loss_by_loops(variables, layer):
    config = dataclasses.replace(CONFIG, layer=layer)
    value, (moved, found) = jax.jit(
        lambda v: config.make(TASK).loss(v, BATCH, key=None, step=jnp.asarray(0))
    )(variables)
    assert float(found["layer"]) == layer
    alone = [member_variables(variables, m) for m in range(3)]
    images = [distilled_by_loops(v, layer - 1) for v in alone]

    expected, statistics = 0.0, []
    for j, member in enumerate(alone):
        for i in range(3):
            if i != j:
                outputs, new = MEMBER.apply(member, images[i], **MODE)
                member = {**member, **new}
                expected += float(cross_entropy(outputs.logits, LABELS))
        statistics.append(member["batch_stats"])
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *statistics)
    chex.assert_trees_all_close(
        moved["batch_stats"]["backbone"]["member"], stacked["backbone"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_layer_is_drawn_once_an_epoch(variables):
    """47 images are 9 batches of 5: steps 0 to 8 share a layer."""
    loss = jax.jit(lambda step: CONFIG.make(TASK).loss(variables, BATCH, key=None, step=step)[1][1])
    layers = [float(loss(jnp.asarray(step))["layer"]) for step in range(36)]
    # In a run epochs are those of its plan: here of four steps each.
    in_run = CONFIG.make(TASK).in_run(Epochs(lambda step: step // 4, 9.0))
    planned = jax.jit(lambda step: in_run(variables, BATCH, key=None, step=step)[1][1])
    found = [float(planned(jnp.asarray(4 * epoch + 3))["layer"]) for epoch in range(4)]
    assert found == layers[::9]
    for epoch in range(4):
        assert len(set(layers[9 * epoch : 9 * epoch + 9])) == 1
    drawn = [int(CONFIG.own_terms[0].draw_layer(jnp.asarray(epoch), 3)) for epoch in range(60)]
    assert set(drawn) == {0, 1, 2}
    assert [layer - 1 for layer in layers[::9]] == drawn[:4]


def test_mistakes_are_named(variables):
    for layer, pattern in ((4, "layer=4 <= 3"), (0, "layer=0 >= 1")):
        with pytest.raises(ValueError, match=pattern):
            dataclasses.replace(CONFIG, layer=layer).make(TASK).loss(
                variables, BATCH, key=None, step=0
            )
    one = Batch(IMAGES[:1], LABELS[:1], jnp.ones(1, bool), jnp.arange(1))
    with pytest.raises(ValueError, match="batch_size=1 >= 2"):
        CONFIG.make(TASK).loss(variables, one, key=None, step=0)
