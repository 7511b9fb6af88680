"""PARL's gradients against jax.jacobian, its loss against NumPy, and what follows for BatchNorm."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import PARL
from robust_jax.methods.parl import feature_gradients
from robust_jax.methods.runs import Member
from robust_jax.models import (
    BatchNorm,
    Classifier,
    CNNConfig,
    EnsembleConfig,
    Normalization,
    default_layers,
    member_variables,
)
from robust_jax.types import Batch, Task

MEMBER = CNNConfig(widths=(3, 4, 4), strides=(1, 2, 1))
TASK = Task((6, 6, 2), 5, 100)
CONFIG = PARL(
    network=EnsembleConfig(MEMBER, 3),
    normalization=Normalization(mean=(0.4, 0.5), std=(0.3, 0.2)),
    num_layers=3,
)
IMAGES = jax.random.uniform(jax.random.key(0), (4, 6, 6, 2))
LABELS = jnp.asarray([0, 3, 1, 4])
BATCH = Batch(IMAGES, LABELS, jnp.ones(4, bool), jnp.arange(4))


def network(layers=default_layers()):
    """Returns the classifier around one member."""
    return Classifier(MEMBER.make(TASK.num_classes, layers), CONFIG.normalization)


CONSTANT = network(
    default_layers()._replace(norm=functools.partial(BatchNorm, statistics_gradient=False))
)


@pytest.fixture(scope="module")
def variables():
    """Variables of an ensemble whose running statistics are not those of the batch."""
    method = CONFIG.make(TASK)
    fresh = jax.jit(lambda key: method.init(key=key))(jax.random.key(1))
    moved = jax.tree.map(lambda leaf: 0.7 * leaf + 0.2, fresh["batch_stats"])
    return {**fresh, "batch_stats": moved}


def gradients_by_jacobian(alone, num_layers):
    """Returns G of one member, normalised by its running statistics: [layers b h w k]."""

    def outputs(image):
        taps = network().apply(alone, image[None], train=False, deterministic=True).taps
        return [tap[0].ravel() for name, tap in sorted(taps.items())][:num_layers]

    jacobians = jax.jit(jax.vmap(jax.jacobian(outputs)))(IMAGES)
    return np.stack([np.asarray(jacobian).sum(1) for jacobian in jacobians])


def with_statistics_of_the_batch(alone):
    """Returns the variables with running statistics replaced by those of IMAGES."""
    taps = (
        network()
        .apply(alone, IMAGES, train=True, deterministic=True, mutable=["batch_stats"])[0]
        .taps
    )
    statistics = {
        f"norm{i}": {
            "mean": taps[f"0{i - 1}.conv{i}"].mean((0, 1, 2)),
            "var": taps[f"0{i - 1}.conv{i}"].var((0, 1, 2)),
        }
        for i in (1, 2, 3)
    }
    return {**alone, "batch_stats": {"backbone": statistics}}


@pytest.mark.slow
def test_gradients_are_summed_jacobians(variables):
    alone = member_variables(variables, 1)
    found = jax.jit(
        lambda v: (
            feature_gradients(Member(network(), v, IMAGES), num_layers=3, train=False),
            feature_gradients(Member(CONSTANT, v, IMAGES), num_layers=3),
        )
    )(alone)
    for gradients, equivalent in zip(
        found, (alone, with_statistics_of_the_batch(alone)), strict=True
    ):
        expected = gradients_by_jacobian(equivalent, 3)
        np.testing.assert_allclose(gradients, expected, rtol=2e-4, atol=1e-4)


@pytest.mark.slow
def test_the_first_layer_has_one_gradient_for_all_images(variables):
    """The convolution is linear: only the channel sums of its kernel matter (k = 1)."""
    alone = member_variables(variables, 0)
    (found,) = feature_gradients(Member(CONSTANT, alone, IMAGES), num_layers=1)
    np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape))
    kernel = np.asarray(alone["params"]["backbone"]["conv1"]["kernel"])
    inside = kernel.sum((0, 1, 3)) / np.asarray(CONFIG.normalization.std)
    np.testing.assert_allclose(found[0, 2, 3], inside, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_normalised_batch_has_no_summed_gradient(variables):
    """Why G is taken before BatchNorm: with batch statistics its summed output is constant."""
    alone = member_variables(variables, 0)
    taps = (
        network()
        .apply(alone, IMAGES, train=True, deterministic=True, mutable=["batch_stats"])[0]
        .taps["00.conv1"]
    )
    norm = {name: alone[name]["backbone"]["norm1"] for name in ("params", "batch_stats")}

    def total(taps, **fields):
        output, _ = BatchNorm(**fields).apply(
            norm, taps, train=True, deterministic=True, mutable=["batch_stats"]
        )
        return jnp.sum(output)

    assert float(jnp.max(jnp.abs(jax.grad(total)(taps)))) < 1e-4
    constant = jax.grad(functools.partial(total, statistics_gradient=False))(taps)
    assert float(jnp.min(jnp.abs(constant))) > 0.1


@pytest.mark.slow
def test_constant_statistics_keep_examples_apart(variables):
    """With them G of an image is its own; differentiated statistics mix the batch in."""
    alone = member_variables(variables, 2)

    def slopes(network):
        """Of example 0's second gradient, at the images of the whole batch."""
        return jax.jit(
            jax.grad(
                lambda images: jnp.sum(
                    feature_gradients(Member(network, alone, images), num_layers=3)[2, 0] ** 2
                )
            )
        )(IMAGES)

    assert np.max(np.abs(slopes(CONSTANT)[1:])) == 0
    assert np.max(np.abs(slopes(network())[1:])) > 0


def penalty_by_loops(gradients, reduction, pairs):
    """Section 4.2 for gradients [m layers b ...], one cosine at a time."""
    num_layers, num_examples = gradients.shape[1:3]
    total = 0.0
    for i, j in pairs:
        for x in range(num_examples):
            for k in range(num_layers):
                u, v = gradients[i, k, x].ravel(), gradients[j, k, x].ravel()
                total += np.dot(u, v) / (np.linalg.norm(u) * np.linalg.norm(v)) / num_examples
    return total if reduction == "sum" else total / num_layers


@pytest.mark.parametrize(
    ("reduction", "statistics", "pairs"),
    [
        pytest.param("sum", "constant", (), marks=pytest.mark.slow),
        ("mean", "running", ((0, 2), (1, 2))),  # figure 1
        pytest.param("sum", "batch", (), marks=pytest.mark.slow),
    ],
)
def test_loss_is_equation_1(variables, reduction, statistics, pairs):
    config = dataclasses.replace(
        CONFIG,
        gamma1=0.7,
        gamma2=0.3,
        layer_reduction=reduction,
        batch_statistics=statistics,
        pairs=pairs,
    )
    value, (moved, found) = jax.jit(
        lambda v: config.make(TASK).loss(v, BATCH, key=jax.random.key(0), step=0)
    )(variables)
    crossed, gradients = 0.0, []
    for i in range(3):
        alone = member_variables(variables, i)
        logits = (
            network()
            .apply(alone, IMAGES, train=True, deterministic=True, mutable=["batch_stats"])[0]
            .logits
        )
        shifted = np.asarray(logits, np.float64)
        probability = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
        crossed -= np.log(probability[np.arange(4), LABELS]).mean()
        if statistics == "constant":
            alone = with_statistics_of_the_batch(alone)
        if statistics == "batch":
            one = Member(network(), alone, IMAGES)
            gradients.append(feature_gradients(one, num_layers=3, train=True))
        else:
            gradients.append(gradients_by_jacobian(alone, 3))
    pairs = pairs or ((0, 1), (0, 2), (1, 2))
    penalty = penalty_by_loops(np.asarray(gradients, np.float64), reduction, pairs)
    assert float(found["cross_entropy"]) == pytest.approx(crossed, rel=1e-5)
    assert float(value) == pytest.approx(0.7 * crossed + 0.3 * penalty, rel=1e-4)
    scale = 1 if reduction == "sum" else 3
    assert float(found["gradient_cosine"]) == pytest.approx(
        penalty * scale / (3 * len(pairs)), rel=1e-3
    )
    assert float(found["dead_gradients"]) == 0
    assert jax.tree.structure(moved) == jax.tree.structure(
        {"batch_stats": variables["batch_stats"]}
    )


@pytest.mark.slow
def test_dead_gradients_are_counted_and_contribute_nothing(variables):
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    kernel = params["backbone"]["member"]["conv1"]["kernel"]
    params["backbone"]["member"]["conv1"]["kernel"] = kernel.at[0].set(0.0)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        value, (_, found) = CONFIG.make(TASK).loss(
            {**variables, "params": params}, BATCH, key=jax.random.key(0), step=0
        )
        return value, found

    (value, found), slope = loss(params)
    assert float(found["dead_gradients"]) == 3 * 4  # all layers of member 0, all examples
    assert np.isfinite(value)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(slope))


def test_majority_decides_and_ties_go_as_configured(variables):
    for vote in ("majority_mean_probability", "majority_lowest_class"):
        method = dataclasses.replace(CONFIG, vote=vote).make(TASK)
        members, scores = jax.jit(
            lambda v, method=method: (
                method.views["members"](v, IMAGES, key=None),
                method.predict(v, IMAGES, key=None),
            )
        )(variables)
        probability = np.asarray(jax.nn.softmax(members)).mean(0)
        for x, row in enumerate(np.argmax(members, -1).T):
            votes = np.bincount(row, minlength=5)
            leading = np.flatnonzero(votes == votes.max())
            if vote == "majority_lowest_class":
                expected = leading[0]
            else:
                expected = leading[np.argmax(probability[x, leading])]
            assert np.argmax(scores[x]) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": MEMBER}, "network=CNNConfig to be an EnsembleConfig"),
        ({"network": EnsembleConfig(MEMBER, 1)}, "num_members=1 >= 2"),
        ({"num_layers": 0}, "num_layers=0 >= 1"),
        ({"gamma2": -1.0}, "gamma2=-1.0 >= 0"),
        ({"pairs": ((1, 0),)}, r"pairs=\(\(1, 0\),\) to be different ones of \[\(0, 1\), "),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **fields)


def test_more_layers_than_convolutions(variables):
    method = dataclasses.replace(CONFIG, num_layers=4).make(TASK)
    with pytest.raises(ValueError, match="num_layers=4 <= 3, the network's 3 x 3 convolutions"):
        jax.eval_shape(lambda v: method.loss(v, BATCH, key=None, step=0), variables)
