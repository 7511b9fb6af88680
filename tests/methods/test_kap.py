"""Kernel average pooling against loops, equations 3 and 6, and its special cases."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import KAP, KernelPool, kap_layers
from robust_jax.methods.kap_layers import KernelPooling
from robust_jax.models import (
    CNNConfig,
    Conv,
    EnsembleConfig,
    PreActResNetConfig,
    ResNetConfig,
    default_layers,
)
from robust_jax.models.noise import gaussian
from robust_jax.types import Batch, Task


def pool_by_loops(values, pool, rows, columns):
    """KAP of one pixel, straight from the definition (PAPERS: V_ij intersected with the grid)."""
    grid = np.asarray(values).reshape(rows, columns)
    size, stride = pool.kernel_size, pool.stride
    low = (size - 1) // 2
    high = size - 1 - low if stride == 1 else low
    out = []
    row_starts = [0] if pool.dimensions == 1 else range(-low, rows + high - size + 1, stride)
    for i in row_starts:
        for j in range(-low, columns + high - size + 1, stride):
            height = 1 if pool.dimensions == 1 else size
            cells = [
                grid[a, b]
                for a in range(i, i + height)
                for b in range(j, j + size)
                if 0 <= a < rows and 0 <= b < columns
            ]
            if pool.kind == "max":
                out.append(max(cells))
            else:
                count = size**pool.dimensions if pool.count_include_pad else len(cells)
                out.append(sum(cells) / count)
    return np.asarray(out)


@pytest.mark.parametrize(
    ("pool", "rows", "columns"),
    [
        (KernelPool(), 4, 6),
        (KernelPool(count_include_pad=True), 4, 6),
        (KernelPool(kind="max"), 4, 6),
        (KernelPool(kernel_size=2), 4, 6),
        (KernelPool(kernel_size=4, stride=1), 4, 6),
        (KernelPool(kernel_size=2, stride=2), 4, 6),
        (KernelPool(kernel_size=3, stride=3), 4, 6),
        (KernelPool(kernel_size=1, stride=1), 4, 6),
        (KernelPool(dimensions=1), 1, 7),
        (KernelPool(dimensions=1, kernel_size=3, stride=2), 1, 7),
        (KernelPool(grids=((3, 8), (2, 5))), 3, 8),
        (KernelPool(kind="max", kernel_size=2), 5, 5),
    ],
)
def test_pool_equals_loops(pool, rows, columns):
    x = jax.random.normal(jax.random.key(0), (2, rows * columns))
    assert pool.grid(rows * columns) == (rows, columns)
    found = jax.jit(pool)(x)
    expected = np.stack([pool_by_loops(row, pool, rows, columns) for row in x])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_constants_stay_constant_and_zero_padding_shrinks_corners():
    ones = jnp.ones((1, 2, 2, 64))
    np.testing.assert_allclose(KernelPool()(ones), 1.0, rtol=1e-6)
    padded = KernelPool(count_include_pad=True)(ones)
    assert padded[0, 0, 0, 0] == pytest.approx(4 / 9)
    assert padded[0, 0, 0, 9] == pytest.approx(1.0)


def test_closest_factors_lie_rows_first():
    pool = KernelPool()
    assert [pool.grid(n) for n in (64, 128, 256, 512, 529)] == [
        (8, 8), (8, 16), (16, 16), (16, 32), (23, 23),
    ]  # fmt: skip


def test_even_kernel_keeps_the_count_and_stride_shrinks_it():
    x = jnp.ones((1, 64))
    assert KernelPool(kernel_size=2)(x).shape == (1, 64)
    for size in (1, 2, 3, 4):
        wide = jnp.ones((1, (8 * size) ** 2))
        assert KernelPool(kernel_size=size, stride=size)(wide).shape == (1, 64)


def test_restored_channels_stand_in_the_middle():
    pool = KernelPool(kernel_size=3, stride=2, restore_channels=True)
    x = jax.random.normal(jax.random.key(0), (3, 64))
    restored = pool(x).reshape(3, 8, 8)
    shrunk = KernelPool(kernel_size=3, stride=2)(x).reshape(3, 4, 4)
    np.testing.assert_array_equal(restored[:, 2:6, 2:6], shrunk)
    assert float(jnp.sum(jnp.abs(restored))) == pytest.approx(float(jnp.sum(jnp.abs(shrunk))))
    with pytest.raises(ValueError, match="even margin"):
        KernelPool(kernel_size=2, stride=2, restore_channels=True)(jnp.ones((1, 36)))


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    "pool",
    [
        KernelPool(),
        KernelPool(kernel_size=2, stride=2),
        KernelPool(kernel_size=3, stride=2, restore_channels=True),
    ],
)
@pytest.mark.parametrize(
    ("side", "channels"),
    [(5, 4), pytest.param(1, 16, marks=pytest.mark.slow)],  # of one pixel, the activations
)
def test_pooled_kernels_equal_pooled_activations(pool, side, channels):
    """Equation 3, values and gradients: KAP(conv(x)) is the convolution by pooled kernels."""
    layer = Conv(features=64, kernel_size=(3, 3), use_bias=True, changes=(KernelPooling(pool),))
    plain = default_layers().conv(features=64, kernel_size=(3, 3), use_bias=True)
    x = jax.random.normal(jax.random.key(0), (2, side, side, channels))
    mode = {"train": False, "deterministic": True}
    variables = layer.init(jax.random.key(1), x, **mode)

    def folded(variables, x):
        return jnp.sum(jnp.sin(layer.apply(variables, x, **mode)))

    def unfolded(variables, x):
        return jnp.sum(jnp.sin(pool(plain.apply(variables, x, **mode))))

    found = jax.jit(jax.value_and_grad(folded, (0, 1)))(variables, x)
    expected = jax.jit(jax.value_and_grad(unfolded, (0, 1)))(variables, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gradient_of_equation_6():
    """One hidden layer: d y / d w1_i is the mean of w2 over the window around i, times x."""
    size = 3
    w1, w2 = jax.random.normal(jax.random.key(0), (2, 9))
    x = 1.7
    pool = KernelPool(dimensions=1, kernel_size=size, count_include_pad=True)
    g1, g2 = jax.grad(lambda w1, w2: jnp.sum(w2 * pool(w1 * x)), (0, 1))(w1, w2)
    for i in range(1, 8):
        assert float(g1[i]) == pytest.approx(x * float(w2[i - 1 : i + 2].sum()) / size, rel=1e-5)
        assert float(g2[i]) == pytest.approx(x * float(w1[i - 1 : i + 2].sum()) / size, rel=1e-5)


def test_noise_is_standard_normal():
    noise = np.asarray(jax.jit(lambda key: gaussian(key, (512, 33)))(jax.random.key(0))).ravel()
    draws = len(noise)
    assert abs(noise.mean()) < 4 / np.sqrt(draws)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / draws)
    assert abs(np.mean(noise**4) - 3) < 4 * np.sqrt(96 / draws)
    assert np.abs(noise).max() < 4.33
    pairs = noise.reshape(512, 33)
    # Neighbours share 32 random bits; they must not share anything else.
    correlation = np.mean(pairs[:, 0:32:2] * pairs[:, 1:33:2])
    assert abs(correlation) < 4 / np.sqrt(512 * 16)


def test_noise_rows_do_not_depend_on_the_batch():
    draw = jax.jit(gaussian, static_argnums=1)
    few, many = draw(jax.random.key(0), (3, 5)), draw(jax.random.key(0), (8, 5))
    np.testing.assert_array_equal(few, many[:3])


TASK = Task((8, 8, 1), 10, 100)
KEY = jax.random.key(0)


def test_only_named_convolutions_are_pooled():
    config = KAP(network=CNNConfig(widths=(16, 16), strides=(1, 1)), pooled=("conv1",), sigma=0.5)
    method = config.make(TASK)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1))
    taps = jax.jit(method.taps)
    one, two = (taps(variables, images, key=jax.random.key(seed)) for seed in (1, 2))
    noise = one["00.conv1"] - two["00.conv1"]
    assert float(jnp.std(noise)) == pytest.approx(0.5 * 2**0.5, rel=0.1)


@pytest.mark.slow
def test_one_block_s_convolution_can_be_named_and_what_is_none_is_refused(monkeypatch):
    network = PreActResNetConfig(width_multiplier=1 / 16)
    noises = []

    def noise(key, shape, dtype):
        noises.append(shape)
        return gaussian(key, shape, dtype)

    monkeypatch.setattr(kap_layers, "gaussian", noise)

    def noisy_taps(*names):
        noises.clear()
        method = KAP(network=network, pool=None, sigma=0.5, pooled=names).make(TASK)
        variables = jax.eval_shape(method.init, key=KEY)
        images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
        jax.eval_shape(lambda *a: method.taps(*a, key=KEY), variables, images)
        return len(noises)

    assert noisy_taps("layer1_0.conv1") == 1
    assert noisy_taps("layer1_0.conv1", "layer4_1.conv2") == 2
    assert noisy_taps("conv1") == 8
    for name in ("conv_1", "layer9_0.conv1", "linear", "kernel", ""):
        with pytest.raises(ValueError, match=f"Expected only='{name}' to be one of the convolu"):
            noisy_taps("conv1", name)
    members = KAP(network=EnsembleConfig(CNNConfig(widths=(16,), strides=(1,)), 2))
    dataclasses.replace(members, pooled=("conv1",)).make(TASK)
    with pytest.raises(ValueError, match="Expected only='conv2'"):
        dataclasses.replace(members, pooled=("conv2",)).make(TASK)


def test_weights_move_between_pooled_and_plain_networks():
    network = CNNConfig(widths=(16,), strides=(1,))
    shapes = [
        jax.eval_shape(KAP(network=network, pool=pool).make(TASK).init, key=jax.random.key(0))
        for pool in (None, KernelPool())
    ]
    chex.assert_trees_all_equal_shapes(*shapes)


@pytest.mark.parametrize("framework", [pytest.param("torch", marks=pytest.mark.slow), "keras"])
def test_reestimated_statistics_are_those_without_noise(framework):
    """Means over the batches, each seen once; nothing is left of the old ones, which are 7."""
    network = CNNConfig(widths=(16,), strides=(2,), framework=framework)
    config = KAP(network=network, sigma=2.0, noise_off_statistics="reestimated")
    method = config.make(Task((8, 8, 1), 10, 100))
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    old = {**variables, "batch_stats": jax.tree.map(lambda a: a + 7.0, variables["batch_stats"])}
    batches = [
        Batch(
            jax.random.uniform(jax.random.key(n), (8, 8, 8, 1)),
            jnp.zeros(8, jnp.int32),
            jnp.arange(8) < (8 if n < 3 else 5),  # the last one is padded: left out
            jnp.arange(8),
        )
        for n in range(4)
    ]
    noise_off = method.views["noise_off"]
    with pytest.raises(ValueError, match="call fit"):
        noise_off(old, batches[0].image)
    assert method.fit is not None
    fitted = method.fit(old, batches, key=jax.random.key(1))
    chex.assert_trees_all_equal(fitted["batch_stats"], old["batch_stats"])
    quiet = KAP(network=network, sigma=0.0).make(Task((8, 8, 1), 10, 100))
    taps = jax.jit(quiet.taps)
    seen = [taps(variables, one.image, key=None)["00.conv1"] for one in batches[:3]]
    statistics = fitted["fitted"]["batch_stats"]["backbone"]["norm1"]
    assert statistics.keys() == {"mean", "var"}
    for name, moment in (("mean", jnp.mean), ("var", jnp.var)):
        expected = np.mean([moment(values, (0, 1, 2)) for values in seen], axis=0)
        # The first batch's moments are taken around the old mean: roundings of 7 squared.
        np.testing.assert_allclose(statistics[name], expected, rtol=1e-4, atol=3e-5)
    replaced = {**variables, **fitted["fitted"]}
    np.testing.assert_allclose(
        noise_off(fitted, batches[0].image),
        quiet.predict(replaced, batches[0].image),
        rtol=1e-5,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="Expected batches without padding"):
        method.fit(old, batches[3:], key=jax.random.key(1))
    without = dataclasses.replace(config, network=ResNetConfig(20, norm=False))
    with pytest.raises(ValueError, match="'reestimated' of a network with BatchNorm"):
        without.make(Task((8, 8, 1), 10, 100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KernelPool(kernel_size=0), "Expected kernel_size=0 >= 1."),
        (lambda: KernelPool(grids=((3, 8),)).grid(25), "to have one of the 25 channels"),
        (lambda: KernelPool(kernel_size=5).grid(16), "Expected kernel_size=5 <= 4"),
        (lambda: KAP(sigma=-0.1), "Expected sigma=-0.1 >= 0."),
        (lambda: KernelPool(dimensions=1, grids=((2, 2),)), "to be empty with dimensions=1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make()
