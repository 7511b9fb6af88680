"""What a traced program holds."""

from collections.abc import Iterator
from typing import Any

from jax.extend.core import jaxprs_in_params


def products(closed: Any) -> list[Any]:
    """Returns the precision of every product of matrices and convolution, inner programs' too."""
    return [
        equation.params["precision"]
        for equation in equations(closed.jaxpr)
        if equation.primitive.name in ("dot_general", "conv_general_dilated")
    ]


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yields the equations of a program and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)
