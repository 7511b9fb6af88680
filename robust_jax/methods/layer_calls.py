"""What the layers of a network are given and return, in the order of its forward pass."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from flax import linen as nn
from jaxtyping import Array

Layer = TypeVar("Layer", bound=nn.Module)


@contextlib.contextmanager
def noting_calls(kind: type[Layer], note: Callable[[Layer, Array, Array], None]) -> Iterator[None]:
    """Has the calls of layers noted while the context lasts.

    Args:
        kind: class of the layers.
        note: is given a layer, its input and its output, after each call.
    """

    def record(call, arguments, keywords, context):
        output = call(*arguments, **keywords)
        if isinstance(context.module, kind) and context.method_name == "__call__":
            note(context.module, arguments[0], output)
        return output

    with nn.intercept_methods(record):
        yield
