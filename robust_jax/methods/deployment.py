"""How a method decides: by the vote of its members, and of several passes where it is random."""

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key

from robust_jax import checks, voting
from robust_jax.types import MethodView, Variables


@dataclasses.dataclass(frozen=True)
class Deployment:
    """How a network that is random at prediction decides.

    Attributes:
        num_draws: passes whose vote it is; of an ensemble every member's in each.
        draws: "fresh" ones at every call; or "frozen", drawn once from `seed`, the same for every
            image and call, so that the method is an ensemble of fixed networks, and not random.
        seed: root of frozen draws.

    Raises:
        ValueError: less than one pass, or a seed that no key has.

    Example:
        >>> from robust_jax.methods import KAP, Deployment
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Task
        >>> task, network = Task((8, 8, 1), 10, 1000), CNNConfig(widths=(16,), strides=(2,))
        >>> fresh, frozen = Deployment(num_draws=10), Deployment(num_draws=10, draws="frozen")
        >>> [KAP(network, deployment=one).make(task).stochastic for one in (fresh, frozen)]
        [True, False]
    """

    num_draws: int = 1
    draws: Literal["fresh", "frozen"] = "fresh"
    seed: int = 0

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "num_draws")
        checks.one_of(self, "draws", ("fresh", "frozen"))
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"Expected 0 <= seed={self.seed} < 2**32, a key's.")


OfKey = Callable[[Key[Array, ""]], Float[Array, "m b c"]]
"""Key of a pass -> the members' logits."""


@runtime_checkable
class Passes(Protocol):
    """Returns what makes a pass of its key; what is not random is computed."""

    def __call__(self, variables: Variables, images: Float[Array, "b h w k"], /) -> OfKey: ...


@runtime_checkable
class OneMember(Protocol):
    """Returns the logits of one member, whose number may be traced."""

    def __call__(
        self,
        variables: Variables,
        images: Float[Array, "b h w k"],
        number: Int[Array, ""] | int,
        /,
        *,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "b c"]: ...


@dataclasses.dataclass(frozen=True)
class MembersView:
    """A view `members` that also computes one member alone.

    Attributes:
        together: the view.
        member: entry `number` of it.
    """

    together: MethodView
    member: OneMember

    def __call__(
        self, variables: Variables, images: Array, /, *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "m b c"]:
        """Returns the logits of all members."""
        return self.together(variables, images, key=key)


def voted(members: MethodView, vote: voting.Vote) -> tuple[MethodView, dict[str, MethodView]]:
    """Returns `predict` and the views `deployed` and `members` of what votes over members.

    Args:
        members: their logits [m b c].
        vote: how they decide; `deployed` are its logits; of a majority, which has no gradient,
            those of the mean probability.
    """

    def deployed(variables, images, *, key=None):
        return voting.logits(members(variables, images, key=key), vote)

    def predict(variables, images, *, key=None):
        return voting.scores(members(variables, images, key=key), vote)

    return predict, {"deployed": deployed, "members": members}
