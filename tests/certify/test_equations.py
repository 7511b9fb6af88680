"""Equations of a jaxpr on arrays: convolutions under any padding, places beyond an array's end."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from robust_jax.certify import Margins, crown_margins, interval_margins, smallest_margin
from robust_jax.certify.equations import evaluated
from tests.convolutions import by_sums

KERNEL = jax.random.normal(jax.random.key(1), (3, 3, 5, 1))
PADS = [((3, 1), (3, 3)), ((1, 3), (0, 3)), ((-1, 2), (1, 1)), ((3, 3), (1, 4))]


def convolved(x, pads, dilation):
    """By lax."""
    return lax.conv_general_dilated(
        x, KERNEL, (1, 1), pads, dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("dilation", [(1, 1), pytest.param((2, 1), marks=pytest.mark.slow)])
def test_a_transpose_reads_nothing_beyond_its_input(pads, dilation):
    """XLA:CPU does, behind padding that is wider than the kernel's reach on one side alone."""
    image = jax.ShapeDtypeStruct((2, 4, 7, 5), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda x: convolved(x, pads, dilation))(image)
    (equation,) = (e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated")
    (output,) = equation.outvars

    def linear(x):
        return evaluated(equation, [x, KERNEL])[0]

    values = jax.random.normal(jax.random.key(2), output.aval.shape)
    _, pull = jax.vjp(lambda x: by_sums(x, KERNEL, pads, dilation=dilation), jnp.zeros(image.shape))
    transposed = jax.jit(lambda values: jax.linear_transpose(linear, image)(values)[0])
    for _ in range(4):  # what is read there differs from call to call
        np.testing.assert_allclose(transposed(values), *pull(values), rtol=1e-4, atol=1e-5)
    x = jax.random.normal(jax.random.key(3), image.shape)
    np.testing.assert_allclose(
        linear(x), by_sums(x, KERNEL, pads, dilation=dilation), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_margins_behind_such_padding_are_exact_where_the_function_is_linear():
    pads, eps = PADS[0], 0.01
    images = jax.random.uniform(jax.random.key(4), (2, 4, 7, 5), minval=0.2, maxval=0.8)
    weights = jax.random.normal(jax.random.key(5), (convolved(images, pads, (1, 1))[0].size, 2))

    def scores(images):
        return convolved(images, pads, (1, 1)).reshape(len(images), -1) @ weights

    def margin(image):
        found = by_sums(image[None], KERNEL, pads).reshape(-1) @ weights
        return found[0] - found[1]

    labels = jnp.zeros(2, jnp.int32)
    exact = jax.vmap(lambda image: margin(image) - eps * jnp.sum(jnp.abs(jax.grad(margin)(image))))(
        images
    )
    found = smallest_margin(crown_margins(scores, images, labels, eps), labels)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("bound", ["crown", "interval", "interval_elided"])
@pytest.mark.parametrize("filled", [5.0, -3.0, 0.0, -jnp.inf, jnp.inf])
def test_what_lies_beyond_an_array_is_the_number_that_is_filled_in(bound, filled):
    weights, images = jnp.asarray([[1.0, 0.0], [0.0, 1.0]]), jnp.asarray([[0.5, 0.4]])

    def logits(x, through=jax.nn.relu):
        places = jnp.asarray([0, 3])
        return through(through(x @ weights).at[:, places].get(mode="fill", fill_value=filled))

    for through in (jax.nn.relu, jnp.asarray):
        network, beyond = functools.partial(logits, through=through), float(through(filled))
        found = Margins(0.05, bound=bound)(network, images, jnp.asarray([0]))
        assert (found.label.tolist() == [0]) == (jnp.isfinite(filled) and beyond < 0.45)
        if jnp.isfinite(filled):
            assert found.margin[0] == pytest.approx(0.45 - beyond, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["crown", "interval_elided"])
def test_what_is_no_number_is_above_nothing(bound):
    """A class that lies beyond the end of an array is NaN whatever the images are."""
    weights = jnp.asarray([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    images = jnp.full((2, 2), 0.5)
    for places, labels in (([0, 7], [0, 0]), ([7, 0], [0, 0]), ([0, 1], [0, 0])):
        found = Margins(0.01, bound=bound)(
            lambda x, at=jnp.asarray(places): jnp.take(x @ weights, at, axis=1), images, labels
        )
        right = places == [0, 1]
        assert (found.margin > 0).tolist() == [right, right]
        assert found.label.tolist() == [0 if right else -1] * 2
    box = images - 0.01, images + 0.01
    taken = lambda x: jnp.take(x @ weights, jnp.asarray([0, 7]), axis=1)  # noqa: E731
    assert interval_margins(taken, *box, jnp.asarray([0, 0])).tolist() == [[0.0, -math.inf]] * 2
    assert crown_margins(taken, images, [0, 0], 0.01).tolist() == [[0.0, -math.inf]] * 2
