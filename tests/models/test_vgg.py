"""VGG networks: known sizes, order of taps, the head's positions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.models import VGGConfig, default_layers, imagenet_vgg
from robust_jax.models.head import averaged


def shapes(config, size, num_classes=10):
    network = config.make(num_classes, default_layers())
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    run = functools.partial(network.init_with_output, train=False, deterministic=True)
    return jax.eval_shape(run, jax.random.key(0), images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "size", "num_classes", "expected"),
    [
        # torchvision's counts.
        (imagenet_vgg(16), 224, 1000, 138_357_544),
        (imagenet_vgg(19), 224, 1000, 143_667_240),
        (imagenet_vgg(19, norm=True), 224, 1000, 143_678_248),
        # The CIFAR forms in common use: 13 + 1 layers, and 16 + 3.
        (VGGConfig(16), 32, 10, 14_728_266),
        (VGGConfig(16, norm=False), 32, 10, 14_719_818),
        (VGGConfig(19, norm=False, hidden=(512, 512)), 32, 10, 20_554_826),
    ],
)
def test_number_of_parameters(config, size, num_classes, expected):
    outputs, variables = shapes(config, size, num_classes)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == expected
    assert outputs.logits.shape == (2, num_classes)


def test_vgg19_has_19_taps_in_order():
    for config, size in ((imagenet_vgg(19), 224), (VGGConfig(19, hidden=(512, 512)), 32)):
        names = list(shapes(config, size)[0].taps)
        assert names == sorted(names)
        expected = [f"conv{i}" for i in range(1, 17)] + ["hidden1", "hidden2", "head"]
        assert [name.split(".")[1] for name in names] == expected
    assert len(shapes(VGGConfig(16), 32)[0].taps) == 14


@pytest.mark.slow
def test_values_by_hand():
    """Kernels that pass their input on: the head sees the largest pixel of the image."""
    config = VGGConfig(11, norm=False, widths=(1, 1, 1, 1, 1))
    network = config.make(3, default_layers())
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1))
    mode = {"train": False, "deterministic": True}
    variables = jax.jit(lambda key: network.init(key, images, **mode))(jax.random.key(1))

    def passing(path, leaf):
        if path[-1].key != "kernel" or leaf.ndim != 4:
            return jnp.zeros_like(leaf)
        return jnp.zeros_like(leaf).at[1, 1].set(1.0)

    params = jax.tree_util.tree_map_with_path(passing, variables["params"])
    outputs = jax.jit(lambda p: network.apply({"params": p}, images, **mode))(params)
    np.testing.assert_allclose(outputs.features[0, :, 0], images.max((1, 2, 3)), rtol=1e-6)


def test_positions():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(averaged(x, 1)[..., 0], [[[7.5]]])
    np.testing.assert_allclose(averaged(x, 2)[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(averaged(x, 4), x)
    np.testing.assert_array_equal(averaged(x[:, :1, :1], 3), jnp.zeros((1, 3, 3, 1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VGGConfig(12), "Expected depth=12 to be one of"),
        (lambda: VGGConfig(widths=(64, 128)), "to be 5 whole numbers >= 1"),
        (lambda: VGGConfig(width_multiplier=0.01), "to be 5 whole numbers >= 1"),
        (lambda: VGGConfig(hidden=(0,)), r"Expected hidden=\(0,\) to be positive."),
        (lambda: VGGConfig(positions=0), "Expected positions=0 >= 1."),
        (lambda: shapes(VGGConfig(), 28), "to be 32 x 32 or larger"),
        (lambda: shapes(VGGConfig(positions=2), 96), "Expected positions=2 to divide"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
