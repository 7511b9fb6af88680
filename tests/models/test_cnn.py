"""Plain convolutional networks: shapes, names, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.models import CNNConfig, conv_encoder, default_layers, strided_cnn


def outputs_shape(config, images_shape=(2, 32, 32, 3), layers=None):
    network = config.make(10, layers or default_layers())
    images = jax.ShapeDtypeStruct(images_shape, jnp.float32)
    run = functools.partial(network.init_with_output, train=False, deterministic=True)
    return jax.eval_shape(run, jax.random.key(0), images)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_strided_cnn_is_that_of_the_paper(num_layers):
    outputs, variables = outputs_shape(strided_cnn(num_layers, expansion=2))
    widths, sizes = (256, 576, 1024), (16, 8, 4)
    assert outputs.logits.shape == (2, 10)
    assert outputs.features.shape == (1, 2, widths[num_layers - 1])
    for i in range(num_layers):
        assert outputs.taps[f"{i:02d}.conv{i + 1}"].shape == (2, sizes[i], sizes[i], widths[i])
        assert "bias" not in variables["params"][f"conv{i + 1}"]
    assert list(outputs.taps)[-1] == f"{num_layers:02d}.head"


def test_conv_encoder_is_that_of_the_paper():
    outputs, _ = outputs_shape(conv_encoder(expansion=3))
    shapes = [tap.shape[1:] for tap in outputs.taps.values()]
    assert shapes == [(32, 32, 576), (16, 16, 1296), (16, 16, 2025), (10,)]


def test_a_factory_may_treat_layers_apart_by_name_and_change_the_channel_count():
    asked = []

    def conv(*, name, features, **rest):
        asked.append((name, features))
        # A pooled convolution with stride may return fewer channels than it was asked for.
        features = features // 4 if name == "conv1" else features
        return default_layers().conv(name=name, features=features, **rest)

    config = CNNConfig(widths=(8, 16), strides=(2, 1))
    layers = default_layers()._replace(conv=conv)
    outputs, variables = outputs_shape(config, (2, 8, 8, 1), layers)
    assert asked == [("conv1", 8), ("conv2", 16)]
    assert variables["params"]["conv2"]["kernel"].shape == (3, 3, 2, 16)
    assert outputs.taps["00.conv1"].shape == (2, 4, 4, 2)


def test_without_norm_and_with_bias():
    _, variables = outputs_shape(
        CNNConfig(widths=(4,), strides=(1,), norm=False, conv_bias=True), (1, 4, 4, 1)
    )
    assert set(variables) == {"params"}
    assert set(variables["params"]) == {"conv1", "linear"}
    assert set(variables["params"]["conv1"]) == {"kernel", "bias"}


def test_leaky_relu_reaches_the_features():
    config = CNNConfig(
        widths=(4,), strides=(1,), norm=False, activation="leaky_relu", negative_slope=0.1
    )
    network, images = config.make(2, default_layers()), jnp.ones((1, 3, 3, 1))
    outputs, _ = network.init_with_output(
        jax.random.key(0), images, train=False, deterministic=True
    )
    tap = np.asarray(outputs.taps["00.conv1"])
    assert np.min(tap) < 0
    expected = np.where(tap > 0, tap, 0.1 * tap).mean((1, 2))
    np.testing.assert_allclose(outputs.features[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (), "strides": ()}, r"Expected widths=\(\)"),
        ({"strides": (2, 2)}, r"Expected strides=\(2, 2\)"),
        ({"max_pool_after": (4,)}, r"Expected max_pool_after=\(4,\) within 1..3"),
        ({"expansion": 0}, "Expected expansion=0 >= 1"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        CNNConfig(**fields)


def test_bad_number_of_layers():
    with pytest.raises(ValueError, match="Expected num_layers=4 to be 1, 2 or 3"):
        strided_cnn(4)
