"""CROWN's margins: against the paper's matrices, closed forms, and intervals on a deep ensemble."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from robust_jax.certify import certified, crown_margins, interval_bounds, smallest_margin
from robust_jax.models import EnsembleConfig, ResNetConfig

RNG = np.random.default_rng(0)
SIZES = (12, 10, 10, 4)
WEIGHTS = [RNG.normal(size=(o, i)) for i, o in itertools.pairwise(SIZES)]
BIASES = [RNG.normal(size=o) for o in SIZES[1:]]
IMAGES = RNG.uniform(0.2, 0.8, size=(3, *SIZES[:1])).astype(np.float32)
LABELS = np.asarray([2, 0, 3])


def perceptron(images):
    """Returns the logits of two hidden layers."""
    x = images
    for number, (weight, bias) in enumerate(zip(WEIGHTS, BIASES, strict=True)):
        x = nn.relu(x) if number else x
        x = x @ jnp.asarray(weight.T, jnp.float32) + jnp.asarray(bias, jnp.float32)[None]
    return x


def matrix_bounds(last, rows, image, eps, known):
    """Returns the paper's lower bounds of rows @ (value of layer `last`), in matrices."""
    total = rows @ BIASES[last]
    rows = rows @ WEIGHTS[last]
    for layer in reversed(range(last)):
        lower, upper = known[layer]
        is_open = (lower < 0) & (upper > 0)
        slope = np.where(is_open, upper / np.where(is_open, upper - lower, 1), lower >= 0)
        adaptive = np.where(is_open, upper > -lower, slope)
        total = total + np.minimum(rows, 0) @ np.where(is_open, -slope * lower, 0)
        rows = np.where(rows > 0, rows * adaptive, rows * slope)
        total = total + rows @ BIASES[layer]
        rows = rows @ WEIGHTS[layer]
    return total + rows @ image - eps * np.abs(rows).sum(1)


@pytest.mark.parametrize("chunk_size", [3, 64])
def test_margins_are_the_papers(chunk_size):
    eps = 0.1
    margins = crown_margins(perceptron, IMAGES, LABELS, eps, chunk_size=chunk_size)
    num_open = 0
    for image, label, found in zip(IMAGES.astype(np.float64), LABELS, margins, strict=True):
        known = []
        for layer in range(2):
            eye = np.eye(SIZES[layer + 1])
            lower = matrix_bounds(layer, eye, image, eps, known)
            upper = -matrix_bounds(layer, -eye, image, eps, known)
            num_open += ((lower < 0) & (upper > 0)).sum()
            known.append((lower, upper))
        rows = np.eye(4)[label] - np.eye(4)
        expected = matrix_bounds(2, rows, image, eps, known)
        # float32 against float64, of sums of some hundred products of size one.
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert num_open > 20


def linear(images):
    return images @ jnp.asarray(RNG_WEIGHTS.T) * 2 - 1


RNG_WEIGHTS = RNG.normal(size=(4, 12)).astype(np.float32)


def test_linear_functions_are_exact():
    """The dual norm of the Linf ball is the sum of absolute weights; the box cuts the ball."""
    margins = crown_margins(linear, IMAGES, LABELS, 0.1)
    difference = 2 * (RNG_WEIGHTS[LABELS][:, None] - RNG_WEIGHTS[None])
    products = np.einsum("bcf,bf->bc", difference, IMAGES)
    expected = products - 0.1 * np.abs(difference).sum(2)
    np.testing.assert_allclose(margins, expected, atol=1e-5)
    everywhere = crown_margins(linear, IMAGES, LABELS, 2.0, intermediate="interval")
    np.testing.assert_allclose(everywhere, np.minimum(difference, 0).sum(2), atol=1e-5)
    lower, upper = interval_bounds(linear, IMAGES - 0.1, IMAGES + 0.1)
    centre, radius = 2 * IMAGES @ RNG_WEIGHTS.T - 1, 0.2 * np.abs(RNG_WEIGHTS).sum(1)[None]
    np.testing.assert_allclose(lower, centre - radius, atol=1e-5)
    np.testing.assert_allclose(upper, centre + radius, atol=1e-5)


def test_no_ball_gives_the_margins_themselves():
    logits = np.asarray(perceptron(IMAGES))
    expected = logits[np.arange(3), LABELS][:, None] - logits
    margins = crown_margins(perceptron, IMAGES, LABELS, 0.0)
    np.testing.assert_allclose(margins, expected, atol=1e-5)
    is_right = logits.argmax(1) == LABELS
    np.testing.assert_array_equal(certified(margins, LABELS), is_right)
    others = [np.delete(row, label).min() for row, label in zip(expected, LABELS, strict=True)]
    np.testing.assert_allclose(smallest_margin(margins, LABELS), others, atol=1e-5)


@pytest.mark.slow
def test_an_image_stands_alone():
    margins = crown_margins(perceptron, IMAGES, LABELS, 0.05)
    for i in range(3):
        alone = crown_margins(perceptron, IMAGES[i : i + 1], LABELS[i : i + 1], 0.05)
        np.testing.assert_allclose(alone[0], margins[i], atol=1e-6)
    function = functools.partial(crown_margins, perceptron, intermediate="interval")
    whole = jax.jit(lambda images, eps: function(images, LABELS, eps))
    # There the weights are constants, which XLA computes with beforehand: float32 rounds otherwise.
    np.testing.assert_allclose(
        whole(IMAGES, 0.05), function(IMAGES, LABELS, 0.05), rtol=1e-6, atol=1e-6
    )
    with pytest.raises(jax.errors.ConcretizationTypeError, match="outside jit"):
        jax.jit(lambda images: crown_margins(perceptron, images, LABELS, 0.05))(IMAGES)
    assert crown_margins(perceptron, IMAGES[:0], LABELS[:0], 0.05).shape == (0, 4)


def test_other_weights_compile_nothing_anew():
    traces, counts = [], []

    def scaled(scale, images):
        traces.append(1)
        return perceptron(images) * scale

    for scale in (1.0, 2.0):
        function = jax.tree_util.Partial(scaled, jnp.float32(scale))
        margins = crown_margins(function, IMAGES, LABELS, 0.05)
        counts.append(len(traces))
    assert counts[0] == counts[1]
    np.testing.assert_allclose(
        margins, 2 * crown_margins(perceptron, IMAGES, LABELS, 0.05), atol=1e-4
    )


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("num_members", "size", "intermediate"),
    [
        (3, 32, "interval"),
        (1, 16, "crown"),
    ],
)
def test_residual_networks(num_members, size, intermediate, random_network, near):
    """Averaged ResNet-18 of base width 4: CROWN is tighter, and tight with its own bounds."""
    network = EnsembleConfig(ResNetConfig(depth=18, width_multiplier=1 / 16), num_members)
    shape, eps = (size, size, 3), 1e-5
    function = random_network(network, shape)
    images = RNG.uniform(0.1, 0.9, (4, *shape)).astype(np.float32)
    samples = np.concatenate([images[None], near(images, eps, 20)])

    def run(function, images, samples):
        logits, *around = jax.jit(function)(samples.reshape((-1, *shape))).reshape((21, 4, 10))
        labels = jnp.argmax(logits, axis=1)
        lower, upper = interval_bounds(function, images - eps, images + eps)
        margins = crown_margins(function, images, labels, eps, intermediate=intermediate)

        def margin_of(first, second):
            return jnp.take_along_axis(first, labels[:, None], axis=1) - second

        sampled = jnp.min(jnp.stack([margin_of(row, row) for row in around]), axis=0)
        return labels, margin_of(logits, logits), sampled, margin_of(lower, upper), margins

    labels, clean, sampled, interval, margins = run(function, images, samples)
    assert jnp.all(margins >= interval)
    assert jnp.all(margins <= sampled + 1e-5)
    share = jnp.mean(clean - margins) / jnp.mean(clean - interval)
    if intermediate == "interval":
        assert share < 0.5
    else:
        assert share < 1e-6
        assert jnp.all(certified(margins, labels))
        assert not jnp.any(certified(interval, labels))


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: jnp.exp(x), "exp"),
        (lambda x: x * x, "mul"),
        (lambda x: 1 / x, "div"),
        (lambda x: jnp.where(x > 0.5, x, 0.0), "gt"),
        (lambda x: jnp.where(x > 0, 1.0, 0.0), "select_n"),
        (lambda x: jnp.where(x > 0, -x, x), "select_n"),
        (lambda x: (x > 0).astype(jnp.float32), "convert_element_type"),
        (lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), "convert_element_type"),
        (lambda x: jnp.zeros(4)[jnp.argmax(x, axis=1)], "argmax"),
        (lambda x: jax.lax.scan(lambda c, row: (c, row > 0), 0, x)[1], "scan"),
    ],
)
def test_unknown_operations_are_named(function, operation):
    with pytest.raises(ValueError, match=f"operation '{operation}'"):
        interval_bounds(function, IMAGES, IMAGES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": IMAGES.astype(np.int32)}, "float32"),
        ({"images": IMAGES + 1}, r"images in bounds=\(0.0, 1.0\)"),
        ({"labels": LABELS[:2]}, "one per image"),
        ({"eps": -0.1}, "eps=-0.1 >= 0"),
        ({"chunk_size": 0}, "chunk_size=0 >= 1"),
        ({"bounds": (1.0, 0.0)}, "increasing"),
        ({"function": lambda x: jnp.sum(x, axis=1)}, r"\[b c\]"),
        ({"function": lambda x: jnp.ones((len(x), 4))}, "depends on the images"),
    ],
)
def test_arguments_are_checked(arguments, message):
    given = {"function": perceptron, "images": IMAGES, "labels": LABELS, "eps": 0.1} | arguments
    with pytest.raises(ValueError, match=message):
        crown_margins(**given)
