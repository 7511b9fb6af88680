"""The classifier: normalisation, dtypes, the features/head split."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.models import Classifier, CNNConfig, NetworkConfig, Normalization, default_layers

MODE = {"train": False, "deterministic": True}
CONFIG = CNNConfig(widths=(4, 8), strides=(2, 2), conv_bias=True)
IMAGES = jax.random.uniform(jax.random.key(0), (3, 8, 8, 2))


def classifier(normalization=Normalization(), dtype="float32"):
    backbone = CONFIG.make(5, default_layers())
    return Classifier(backbone=backbone, normalization=normalization, dtype=dtype)


@functools.cache
def init():
    """Returns variables without normalisation."""
    return jax.jit(functools.partial(classifier().init, **MODE))(jax.random.key(1), IMAGES)


@functools.partial(jax.jit, static_argnums=0)
def constants(network):
    return network.init(jax.random.key(1), IMAGES, **MODE).get("constants")


@functools.partial(jax.jit, static_argnums=0)
def apply(network, variables, images):
    return network.apply(variables, images, **MODE)


def test_given_normalization_is_inside_the_model():
    plain, normalized = classifier(), classifier(Normalization(mean=(0.2, 0.7), std=(0.5, 2.0)))
    variables = {**init(), "constants": constants(normalized)}
    np.testing.assert_allclose(variables["constants"]["mean"], [0.2, 0.7])
    by_hand = (IMAGES - jnp.array([0.2, 0.7])[None, None, None]) / jnp.array([0.5, 2.0])[
        None, None, None
    ]
    np.testing.assert_allclose(
        apply(normalized, variables, IMAGES).logits,
        apply(plain, init(), by_hand).logits,
        rtol=1e-5,
        atol=1e-5,
    )
    assert constants(plain) is None


@pytest.mark.parametrize(
    ("statistics", "shape"), [("train_channel", (2,)), ("train_pixel", (8, 8, 2))]
)
def test_training_statistics_are_variables_to_fill(statistics, shape):
    network = classifier(Normalization(statistics=statistics))
    initial = constants(network)
    np.testing.assert_array_equal(initial["mean"], np.zeros(shape))
    np.testing.assert_array_equal(initial["std"], np.ones(shape))
    variables = {**init(), "constants": initial}
    mean = jax.random.uniform(jax.random.key(2), shape)
    filled = {**variables, "constants": {"mean": mean, "std": jnp.full(shape, 2.0)}}
    mean = jnp.broadcast_to(mean, IMAGES.shape[1:])[None]
    np.testing.assert_allclose(
        apply(network, filled, IMAGES).logits,
        apply(network, variables, (IMAGES - mean) / 2).logits,
        rtol=1e-5,
        atol=1e-5,
    )


def test_features_then_head_is_the_forward_pass():
    network = classifier()
    variables = init()
    outputs = apply(network, variables, IMAGES)
    features, taps = network.apply(variables, IMAGES, method="features", **MODE)
    np.testing.assert_allclose(features, outputs.features[0], rtol=1e-6)
    np.testing.assert_allclose(
        network.apply(variables, features, method="head", **MODE), outputs.logits, rtol=1e-5
    )
    np.testing.assert_array_equal(outputs.member_logits[0], outputs.logits)
    assert [*taps, "02.head"] == list(outputs.taps)


def test_bfloat16_activations_and_float32_logits():
    network = classifier(Normalization(mean=(0.5, 0.5), std=(0.2, 0.2)), dtype="bfloat16")
    variables = {**init(), "constants": constants(network)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs = apply(network, variables, IMAGES)
    assert outputs.taps["00.conv1"].dtype == jnp.bfloat16
    assert outputs.logits.dtype == outputs.member_logits.dtype == jnp.float32
    exact = apply(
        classifier(Normalization(mean=(0.5, 0.5), std=(0.2, 0.2))), variables, IMAGES
    ).logits
    difference = np.max(np.abs(outputs.logits - exact))
    assert 0 < difference < 0.05 * np.max(np.abs(exact))


def test_training_moves_batch_statistics_and_demands_them_mutable():
    network = classifier()
    variables = init()
    outputs, moved = network.apply(
        variables, IMAGES, train=True, deterministic=True, mutable=["batch_stats"]
    )
    mean = jnp.mean(outputs.taps["00.conv1"], (0, 1, 2))
    norm1 = moved["batch_stats"]["backbone"]["norm1"]
    np.testing.assert_allclose(norm1["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    with pytest.raises(Exception, match="batch_stats"):
        network.apply(variables, IMAGES, train=True, deterministic=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.5,)}, r"Expected std=\(\) to be as long as mean=\(0.5,\)"),
        ({"mean": (0.5,), "std": (0.0,)}, r"Expected std=\(0.0,\) > 0"),
        (
            {"mean": (0.5,), "std": (1.0,), "statistics": "train_pixel"},
            r"Expected mean=\(0.5,\) to be empty",
        ),
    ],
)
def test_bad_normalization(fields, message):
    with pytest.raises(ValueError, match=message):
        Normalization(**fields)


def test_wrong_number_of_channels():
    network = classifier(Normalization(mean=(0.5,) * 3, std=(1.0,) * 3))
    with pytest.raises(ValueError, match=r"Expected mean=\(0.5, 0.5, 0.5\) to have 2 entries"):
        constants(network)


def test_abstract_configuration_says_so():
    with pytest.raises(TypeError, match=r"abstract class '?NetworkConfig"):
        NetworkConfig()
