"""The checks of annotations that the tests run under."""

import os

import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, TypeCheckError

from robust_jax.checks import at_least
from robust_jax.models import initializers
from tests.type_checks import checked_once

pytestmark = pytest.mark.skipif(
    os.environ.get("ROBUST_JAX_TYPE_CHECKS") == "0", reason="the checks are switched off"
)


def scaled(factor, shape=None):
    @checked_once
    def inner(x: Float[Array, "b c"], *, deeper: bool = False) -> Float[Array, "b c"]:
        x = scaled(2 * factor)(x) if deeper else x
        return jnp.zeros(shape) if shape else factor * x

    return inner


def test_a_function_of_the_same_code_is_itself():
    ones = jnp.ones((2, 3))
    twice, thrice = scaled(2), scaled(3)
    assert float(twice(ones)[0, 0]) == 2
    assert float(thrice(ones)[0, 0]) == 3
    assert float(twice(ones, deeper=True)[0, 0]) == 8
    assert float(twice(ones)[0, 0]) == 2
    assert thrice.__name__ == "inner"


def test_arguments_and_results_are_checked_every_time():
    for factor in (2, 3):
        with pytest.raises(TypeCheckError, match="the parameters of"):
            scaled(factor)(jnp.ones(2))
        with pytest.raises(TypeCheckError, match="the return value of"):
            scaled(factor, shape=(2, 4))(jnp.ones((2, 3)))
        with pytest.raises(TypeError, match="deepr"):
            scaled(factor)(jnp.ones((2, 3)), deepr=True)
        assert scaled(factor)(jnp.ones((2, 3))).shape == (2, 3)


def test_functions_inside_those_of_the_package_are_checked():
    for _ in range(2):
        with pytest.raises(TypeCheckError, match="parameter 'key'"):
            initializers.uniform_fan_in(9)("no key", (3, 4))


def test_functions_without_shapes_are_checked():
    with pytest.raises(TypeCheckError, match="parameter least"):
        at_least(3, "number", 0)
