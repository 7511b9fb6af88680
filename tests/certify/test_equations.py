"""Equations of a jaxpr on arrays: a convolution under any padding, and its transpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from robust_jax.certify import crown_margins, smallest_margin
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
