"""Residual networks: known sizes, order of taps, shortcuts, switches."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.models import PreActResNetConfig, ResNetConfig, default_layers, resnet
from robust_jax.models.pre_act_resnet import PreActBlock


def shapes(config, size, num_classes=10, layers=None):
    network = config.make(num_classes, layers or default_layers())
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    run = functools.partial(network.init_with_output, train=False, deterministic=True)
    return jax.eval_shape(run, jax.random.key(0), images)


def num_parameters(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.quick_one_in(9)
@pytest.mark.parametrize(
    ("config", "size", "num_classes", "expected"),
    [
        # torchvision's counts.
        (ResNetConfig(depth=18, stem="imagenet"), 224, 1000, 11_689_512),
        (ResNetConfig(depth=34, stem="imagenet"), 224, 1000, 21_797_672),
        (ResNetConfig(depth=50, stem="imagenet"), 224, 1000, 25_557_032),
        # The CIFAR forms in common use.
        (ResNetConfig(depth=18), 32, 10, 11_173_962),
        (ResNetConfig(depth=20, shortcut="A"), 32, 10, 269_722),
        (ResNetConfig(depth=32, shortcut="A"), 32, 10, 464_154),
        (PreActResNetConfig(), 32, 10, 11_172_170),
        (PreActResNetConfig(final_norm=False), 32, 10, 11_171_146),
        # Nine times the projections of 64 x 128, 128 x 256 and 256 x 512 in place of once.
        (PreActResNetConfig(shortcut_size=3), 32, 10, 11_172_170 + 8 * 172_032),
        (ResNetConfig(depth=50), 32, 10, 23_520_842),
        # A block's first norm is of its inputs, where the last one of ResNet-50's is of outputs.
        (
            PreActResNetConfig(depth=50, final_norm=False, stem_norm=True, shortcut_norm=True),
            *(32, 10, 23_520_842 + 2 * (64 - 2048)),
        ),
    ],
)
def test_number_of_parameters(config, size, num_classes, expected):
    outputs, variables = shapes(config, size, num_classes)
    assert num_parameters(variables) == expected
    assert outputs.logits.shape == (2, num_classes)
    assert outputs.member_logits.shape == (1, 2, num_classes)


def test_resnet50_has_54_convolution_and_linear_taps_in_torchvision_order():
    outputs, _ = shapes(ResNetConfig(depth=50, stem="imagenet"), 128, 1000)
    names = list(outputs.taps)
    assert names == sorted(names)
    outputs_only = [name for name in names if not name.endswith(".pre_act")]
    assert len(outputs_only) == 54
    assert len(names) == 54 + 16
    assert names[:6] == [
        "00.stem.conv",
        "01.layer1.0.conv1",
        "02.layer1.0.conv2",
        "03.layer1.0.conv3",
        "04.layer1.0.shortcut",
        "05.layer1.0.pre_act",
    ]
    assert [name.split(".", 1)[1] for name in outputs_only[-5:]] == [
        "layer4.1.conv3",
        "layer4.2.conv1",
        "layer4.2.conv2",
        "layer4.2.conv3",
        "head",
    ]
    assert outputs.taps["04.layer1.0.shortcut"].shape == (2, 32, 32, 256)
    # Stride in the 3 x 3 convolution, as torchvision has it.
    assert outputs.taps["14.layer2.0.conv1"].shape == (2, 32, 32, 128)
    assert outputs.taps["15.layer2.0.conv2"].shape == (2, 16, 16, 128)


def test_widths_of_the_kap_imagenet_networks():
    config = ResNetConfig(stem="imagenet", widths=(64, 144, 256, 529))
    outputs, _ = shapes(config, 224, 1000)
    assert outputs.features.shape == (1, 2, 529)
    wide = ResNetConfig(stem="imagenet", widths=(64, 144, 256, 529), width_multiplier=4.0)
    assert wide.stage_widths == (256, 576, 1024, 2116)
    outputs, _ = shapes(wide, 128, 200)
    assert outputs.taps["00.stem.conv"].shape == (2, 64, 64, 256)


@pytest.mark.slow
def test_channel_counts_come_from_the_arrays():
    """Convolutions that return three channels of four: everything else follows."""

    def conv(*, features, **rest):
        return default_layers().conv(features=features * 3 // 4, **rest)

    for config in (
        ResNetConfig(width_multiplier=1 / 16),
        ResNetConfig(depth=50, width_multiplier=1 / 16),
        ResNetConfig(depth=20, shortcut="A"),
        PreActResNetConfig(width_multiplier=1 / 16),
    ):
        plain, _ = shapes(config, 16)
        fewer, _ = shapes(config, 16, layers=default_layers()._replace(conv=conv))
        assert list(fewer.taps) == list(plain.taps)
        assert fewer.features.shape[-1] == plain.features.shape[-1] * 3 // 4


def test_switches_of_public_resnet20s():
    config = ResNetConfig(depth=20, conv_bias=True, stem_norm=False, shortcut_norm=False)
    _, variables = shapes(config, 32)
    params = variables["params"]
    assert "stem_norm" not in params
    assert set(params["layer2_0"]) == {"conv1", "norm1", "conv2", "norm2", "shortcut"}
    for layer in (params["stem_conv"], params["layer2_0"]["shortcut"]):
        assert set(layer) == {"kernel", "bias"}
    _, variables = shapes(ResNetConfig(depth=20, shortcut="A"), 32)
    assert set(variables["params"]["layer2_0"]) == {"conv1", "norm1", "conv2", "norm2"}


@pytest.mark.slow
def test_a_zero_branch_leaves_the_shortcut():
    """With every convolution at zero the network is what its shortcuts alone make of the stem."""
    config = ResNetConfig(depth=20, shortcut="A", stem_norm=False, conv_bias=True)
    network = config.make(10, default_layers())
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    mode = {"train": False, "deterministic": True}
    shape = jax.eval_shape(functools.partial(network.init, **mode), jax.random.key(1), images)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shape)
    apply = jax.jit(functools.partial(network.apply, **mode))

    def with_stem(**stem):
        params = {**zeros["params"], "stem_conv": {**zeros["params"]["stem_conv"], **stem}}
        return apply({**zeros, "params": params}, images)

    outputs = with_stem(bias=jnp.arange(16.0))
    # 16 -> 32 channels puts 8 zero channels on each side, 32 -> 64 another 16.
    expected = np.zeros((2, 64), np.float32)
    expected[:, 24:40] = np.arange(16)
    np.testing.assert_array_equal(outputs.features[0], expected)
    # Every stride-th pixel: with an identity-like stem, positions 0, 2, 4, 6.
    outputs = with_stem(kernel=jnp.zeros((3, 3, 3, 16)).at[1, 1, 0, 0].set(1.0))
    total = outputs.taps["12.layer2.0.pre_act"]
    np.testing.assert_array_equal(total[..., 8], images[:, ::2, ::2, 0])


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize("start", ["activated", "raw"])
@pytest.mark.parametrize("size", [1, 3])
def test_where_a_projection_starts(start, size):
    """A block whose branch is 0 is its projection, of what norm and ReLU let pass or of all."""
    config = PreActResNetConfig(framework="torch_same")
    block = PreActBlock(config, default_layers(), 2, 2, shortcut_start=start, shortcut_size=size)
    images = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
    mode = {"train": False, "deterministic": True}
    variables = block.init(jax.random.key(1), images, **mode)
    params = {**variables["params"], "conv2": {"kernel": jnp.zeros((3, 3, 2, 2))}}
    found, _ = block.apply({**variables, "params": params}, images, **mode)
    x = np.asarray(images[0])
    if start == "activated":
        x = np.maximum(x / np.sqrt(1 + 1e-5), 0)
    # "SAME": a 3 x 3 window begins at its pixel, and the row and column after the last are 0.
    x = np.pad(x, ((0, 1), (0, 1), (0, 0)))
    kernel = np.asarray(params["shortcut"]["kernel"])
    expected = [
        [np.einsum("abk,abko->o", x[i : i + size, j : j + size], kernel) for j in (0, 2)]
        for i in (0, 2)
    ]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(
    "block",
    [
        "basic",
        pytest.param("basic_shortcut", marks=pytest.mark.slow),
        pytest.param("bottleneck", marks=pytest.mark.slow),
        "pre_act",
    ],
)
def test_the_gradient_through_a_branch_is_scaled(block):
    """One block: d loss / dx is what the shortcut passes plus gamma times what the branch does."""
    fields = {"width": 3, "strides": 2 if block == "basic_shortcut" else 1}
    config = ResNetConfig(depth=50 if block == "bottleneck" else 18)
    made = PreActBlock if block == "pre_act" else resnet._Block
    mode = {"train": False, "deterministic": True}
    channels = 12 if block == "bottleneck" else 3
    images = jax.random.normal(jax.random.key(0), (2, 4, 4, channels))

    def modules(gamma):
        scaled = dataclasses.replace(config, branch_gradient=gamma)
        return made(config=scaled, layers=default_layers(), **fields)

    variables = modules(1.0).init(jax.random.key(1), images, **mode)

    def block_fn(gamma):
        return lambda x: modules(gamma).apply(variables, x, **mode)[0]

    out, pullback = jax.vjp(block_fn(1.0), images)
    cotangent = jax.random.normal(jax.random.key(2), out.shape)
    everything = pullback(cotangent)[0]
    # The activation after the sum; a pre-activation block has none.
    total = modules(1.0).apply(variables, images, **mode)[1]["pre_act"]
    passed = cotangent if block == "pre_act" else jnp.where(total > 0, cotangent, 0)
    if block == "basic_shortcut":
        # The projection by itself: the branch's gradient is what is left without it.
        params = {name: variables["params"][name] for name in ("shortcut", "shortcut_norm")}
        kernel, norm = params["shortcut"]["kernel"], params["shortcut_norm"]

        def projection(x):
            scale = norm["scale"] / np.sqrt(1 + 1e-5)
            return (
                jnp.einsum("bhwk,kl->bhwl", x[:, ::2, ::2], kernel[0, 0]) * scale[None, None, None]
            )

        passed = jax.vjp(projection, images)[1](passed)[0]
    for gamma in (0.0, 0.2):
        found, pullback = jax.vjp(block_fn(gamma), images)
        np.testing.assert_array_equal(found, out)
        by_hand = passed + gamma * (everything - passed)
        np.testing.assert_allclose(pullback(cotangent)[0], by_hand, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(everything - passed).max()) > 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"branch_gradient": 1.5}, r"Expected branch_gradient=1.5 in \[0, 1\]"),
        ({"depth": 19}, "Expected depth=19 to be one of"),
        ({"widths": (16, 32)}, r"Expected widths=\(16, 32\) to have 4 entries"),
        ({"width_multiplier": 0.01}, "Expected width_multiplier=0.01"),
        ({"depth": 20, "width_multiplier": 0.3}, "Expected width_multiplier=0.3"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**fields)


def test_bad_fields_of_a_pre_activation_network():
    with pytest.raises(ValueError, match=r"Expected depth=20 to be one of \(18, 34, 50\)"):
        PreActResNetConfig(depth=20)
    with pytest.raises(ValueError, match=r"Expected shortcut_size=2 to be one of \(1, 3\)"):
        PreActResNetConfig(shortcut_size=2)


def test_bad_number_of_classes():
    with pytest.raises(ValueError, match="Expected num_classes=0 >= 1"):
        shapes(ResNetConfig(), 32, num_classes=0)
