"""Method: the record of pure functions that every defence is, and its configuration."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float, Key

from robust_jax.types import Batch, Task, Variables

Metrics = dict[str, Float[Array, ""]]


class Init(Protocol):
    """Returns fresh variables."""

    def __call__(self, *, key: Key[Array, ""]) -> Variables: ...


class Loss(Protocol):
    """Returns the scalar to minimise, the collections it moved, and metrics to log."""

    def __call__(
        self, variables: Variables, batch: Batch, *, key: Key[Array, ""], step: Any
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]: ...


class View(Protocol):
    """Returns an array computed from images: what an adversary may see and differentiate."""

    def __call__(
        self, variables: Variables, images: Float[Array, "b h w k"], *, key: Key[Array, ""] | None
    ) -> Any: ...


class Method(NamedTuple):
    """A defence as pure functions.

    Attributes:
        init: fresh variables, a nested dict {'params', 'batch_stats', ...}.
        loss: training objective; moves BatchNorm statistics and the like.
        predict: the deployed rule, scores [b c]; may be random, flat or voted.
        views: by name, what an adversary may differentiate. Every method has `deployed` (the
            deployed randomness, differentiable), `train` (batch statistics) and `members`
            [m b c]; each method's docstring says what its own views are.
        stochastic: does `predict` consume its key?
        fit: post-hoc fitting on training batches, which adds the 'fitted' collection; None
            where the method has none.
    """

    init: Init
    loss: Loss
    predict: View
    views: Mapping[str, View]
    stochastic: bool = False
    fit: Callable[..., Variables] | None = None

    def view(self, name: str) -> View:
        """Returns the view called `name`.

        Raises:
            ValueError: the method has no such view.
        """
        if name not in self.views:
            raise ValueError(f"Expected view={name!r} to be one of {sorted(self.views)}.")
        return self.views[name]


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """Hyper-parameters of a defence; subclasses add theirs and build the record."""

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: a hyper-parameter does not fit the task.
        """
        raise TypeError(f"Expected {type(self).__name__} to define make(task).")


Batches = Iterable[Batch]
