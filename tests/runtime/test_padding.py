"""Padding that XLA:CPU reads wrongly: cut, or padded, before every convolution."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from robust_jax.runtime.padding import within_reach
from tests.convolutions import by_sums

LAYOUT = ("NHWC", "HWIO", "NHWC")
KERNEL = jax.random.normal(jax.random.key(1), (3, 2, 2, 3))


def convolved(x, pads, strides, dilation):
    """Returns a convolution whose padding is within its kernel's reach."""
    x, pads, dilation = within_reach(x, pads, kernel_size=(3, 2), input_dilation=dilation)
    return lax.conv_general_dilated(x, KERNEL, strides, pads, dilation, dimension_numbers=LAYOUT)


@pytest.mark.quick_one_in(6)
@pytest.mark.parametrize(
    ("pads", "strides", "dilation"),
    [
        (((5, 1), (2, 3)), (1, 1), (1, 1)),
        (((-1, 3), (1, -2)), (1, 1), (1, 1)),
        (((-2, -1), (0, 4)), (2, 1), (1, 1)),
        (((3, -1), (-1, 2)), (1, 1), (2, 3)),
        (((1, 0), (-3, 4)), (2, 2), (1, 2)),
    ],
)
def test_a_convolution_and_its_gradient_read_the_image_alone(pads, strides, dilation):
    x = jax.random.normal(jax.random.key(2), (2, 4, 7, 2))
    expected, pull = jax.vjp(
        lambda x: by_sums(x, KERNEL, pads, strides=strides, dilation=dilation), x
    )
    cotangent = jax.random.normal(jax.random.key(3), expected.shape)

    @jax.jit
    def both(x, cotangent):
        value, pull = jax.vjp(lambda x: convolved(x, pads, strides, dilation), x)
        return value, *pull(cotangent)

    for _ in range(4):  # what lies beyond differs from call to call
        value, gradient = both(x, cotangent)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gradient, *pull(cotangent), rtol=1e-4, atol=1e-5)


def test_what_is_within_reach_is_as_it_was():
    x = jnp.ones((1, 4, 4, 2))
    found = within_reach(x, ((1, 2), (0, 1)), kernel_size=(3, 2), input_dilation=(2, 1))
    assert found[0] is x
    assert found[1:] == (((1, 2), (0, 1)), (2, 1))


@pytest.mark.slow
def test_every_convolution_asks(repository):
    """A function that calls JAX's convolution has brought its padding within reach before."""
    calling = []
    for path in sorted((repository / "robust_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
                names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                if any(name.startswith("conv") and "dilated" in name for name in names):
                    calling.append((path.stem, node.name, "within_reach" in names))
    assert len(calling) >= 3
    assert [(file, name) for file, name, asks in calling if not asks] == []
