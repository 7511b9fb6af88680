"""Wide residual networks: known sizes and taps; ResNet-18 of base width 4."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from robust_jax.models import ResNetConfig, WideResNetConfig, default_layers


def shapes(config, num_classes=10):
    network = config.make(num_classes, default_layers())
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    run = functools.partial(network.init_with_output, train=False, deterministic=True)
    return jax.eval_shape(run, jax.random.key(0), images)


def by_layers(depth, widening):
    """The number of parameters, counted layer by layer: kernels without bias, two per norm."""
    total, channels = 9 * 3 * 16, 16
    for width in (16 * widening, 32 * widening, 64 * widening):
        for _ in range((depth - 4) // 6):
            total += 2 * channels + 9 * channels * width + 2 * width + 9 * width * width
            total += channels * width if channels != width else 0
            channels = width
    return total + 2 * channels + channels * 10 + 10


@pytest.mark.parametrize(
    ("depth", "widening", "expected"), [(16, 4, 2_748_890), (28, 10, 36_479_194)]
)
def test_number_of_parameters(depth, widening, expected):
    outputs, variables = shapes(WideResNetConfig(depth, widening))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert count == expected == by_layers(depth, widening)
    assert outputs.features.shape == (1, 2, 64 * widening)


def test_taps():
    names = list(shapes(WideResNetConfig(16, 4))[0].taps)
    assert names == sorted(names)
    # Stem, two convolutions in each of six blocks, three projections, the head.
    assert sum(not name.endswith(".pre_act") for name in names) == 1 + 12 + 3 + 1
    assert names[:4] == [
        "00.stem.conv", "01.layer1.0.conv1", "02.layer1.0.conv2", "03.layer1.0.shortcut"
    ]  # fmt: skip


def test_resnet18_of_base_width_4():
    outputs, variables = shapes(ResNetConfig(depth=18, width_multiplier=1 / 16))
    assert outputs.features.shape == (1, 2, 32)
    assert variables["params"]["stem_conv"]["kernel"].shape == (3, 3, 3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WideResNetConfig(depth=18), r"Expected depth=18 to be 6 n \+ 4 with n >= 1."),
        (lambda: WideResNetConfig(depth=4), "Expected depth=4"),
        (lambda: WideResNetConfig(widening=0), "Expected widening=0 >= 1."),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
