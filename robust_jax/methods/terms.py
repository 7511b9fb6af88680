"""What a loss is a sum of: terms, and the pass of a batch that they ask.

A term is a frozen dataclass. It asks a `Pass` for what it needs: the members' logits, the gradients
of their losses at the images, a `Quantity` of every member, logits on adversarial images. What is
asked is computed at most once, however many terms ask it; gradients and quantities are said in the
class, so that every member runs forward, and backward, once.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key, PyTree

from robust_jax import rng, voting
from robust_jax.attacks import Attack, bind
from robust_jax.methods.runs import Asked, Found, Members, Quantity, Runs, cross_entropy
from robust_jax.models import NetworkConfig
from robust_jax.models.ensemble import check_ensemble
from robust_jax.types import Batch, MethodView, Variables


class Epoch(NamedTuple):
    """The epoch of a step.

    Attributes:
        number: from 0.
        count: of the whole run; None outside of one.
    """

    number: Int[Array, ""]
    count: float | None  # pyright: ignore[reportIncompatibleMethodOverride] (a tuple's own)


@dataclasses.dataclass
class Pass:
    """A batch's pass: each of its parts is computed when it is first asked, and once.

    Attributes:
        runs: how the network runs in training.
        view: the method's views by name, for attacks.
        vote: how members decide.
        variables: of the method.
        batch: images and labels.
        key: of the step; None where nothing is drawn.
        asked: by all terms.
        epoch: of the step.
        step: number of the step in its run, from 0.
        label_smoothing: of cross-entropies.
        moved: collections as the passes so far have moved them.

    Example:
        >>> from robust_jax.methods import Pass, Standard, Term, Value
        >>> class ConfidencePenalty(Term):  # Pereyra et al., 2017
        ...     def __call__(self, passed: Pass) -> Value:
        ...         log_p = jax.nn.log_softmax(passed.member_logits)
        ...         negentropy = jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1))
        ...         return Value(0.1 * negentropy, {"entropy": -negentropy})
        >>> Standard(terms=(ConfidencePenalty(),)).all_terms[1]
        ConfidencePenalty()
    """

    runs: Runs
    view: Callable[[str], MethodView]
    vote: voting.Vote
    variables: Variables
    batch: Batch
    key: Key[Array, ""] | None
    asked: Asked
    epoch: Epoch
    step: Int[Array, ""]
    label_smoothing: float
    moved: Variables = dataclasses.field(default_factory=dict)
    _adversarial: dict[tuple[Attack, str], Members] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> Int[Array, " b"]:
        """Returns the labels."""
        return self.batch.label

    @functools.cached_property
    def members(self) -> Members:
        """Returns what members give on the batch's images."""
        return self._moving(self.batch.image, self.asked)

    @property
    def member_logits(self) -> Float[Array, "m b c"]:
        """Returns the members' logits."""
        return self.members.logits

    @property
    def losses(self) -> Float[Array, " m"]:
        """Returns the members' mean cross-entropies."""
        if self.members.losses is not None:
            return self.members.losses
        return jax.vmap(lambda logits: cross_entropy(logits, self.labels, self.label_smoothing))(
            self.member_logits
        )

    @property
    def gradients(self) -> Float[Array, "m b d"]:
        """Returns the gradient of each member's mean cross-entropy at the images.

        Raises:
            ValueError: no term says that it asks them.
        """
        if self.members.gradients is None:
            raise ValueError("Expected gradients=True of a term that asks for gradients.")
        return self.members.gradients

    @property
    def vote_logits(self) -> Float[Array, "b c"]:
        """Returns the logits of the vote (of a majority those of the mean probability)."""
        return voting.logits(self.member_logits, self.vote)

    @property
    def has_run(self) -> bool:
        """Returns whether the members have run on the batch's images."""
        return "members" in self.__dict__

    def quantity(self, quantity: Quantity) -> PyTree:
        """Returns a quantity of all members."""
        return self.members.quantities[quantity]

    def adversarial_logits(self, attack: Attack, view: str) -> Float[Array, "b c"]:
        """Returns the logits of the vote on images that an attack on a view makes of the batch's.

        No gradient flows through the images. Statistics move after those of the clean pass, and
        what is random has the draws of that. The view is of one pass of the network: where several
        vote (RSE, SAP), or layers do (REGroup), the attack does not see that.

        Raises:
            ValueError: an attack that runs on the host, or is targeted.
        """
        attack.check_in_training()
        _ = self.members  # the clean pass comes first
        if (attack, view) not in self._adversarial:
            attacked = bind(self.view(view), jax.lax.stop_gradient(self.variables))
            images = attack(
                attacked, self.batch.image, self.labels,
                key=rng.stream(rng.required_key(self.key), "attack"), index=self.batch.index,
            )  # fmt: skip
            apart = self.asked.gradients or bool(self.asked.quantities)
            self._adversarial[attack, view] = self._moving(images, Asked(apart=apart))
        return voting.logits(self._adversarial[attack, view].logits, self.vote)

    def gradients_at(
        self, variables: Variables, images: Float[Array, "b h w k"], labels: Int[Array, " b"]
    ) -> Float[Array, "m b d"]:
        """Returns the members' gradients on other images, for other variables; nothing moves."""
        found = self.runs.run(variables, images, labels, key=self.key, asked=Asked(gradients=True))
        assert found.gradients is not None
        return found.gradients

    def over_members(
        self, function: Callable[..., Found], variables: Variables, *shares: Array
    ) -> Found:
        """Returns `function(member, *shares)` of every member on the batch's images, stacked.

        Args:
            function: of a `Member` and its share of each of the others.
            variables: of the method.
            *shares: arrays with a leading member axis.
        """
        assert self.runs.over_members is not None  # asked where the loss is made
        images = self.batch.image
        return self.runs.over_members(function, variables, images, *shares, key=self.key)

    def _moving(self, images: Array, asked: Asked) -> Members:
        variables = {**self.variables, **self.moved}
        found = self.runs.run(variables, images, self.labels, key=self.key, asked=asked)
        self.moved = found.moved
        return found


class Value(NamedTuple):
    """What a term comes to.

    Attributes:
        value: the summand of the loss.
        report: numbers to follow, by name.

    Example:
        >>> from robust_jax.methods import Value
        >>> penalty = jnp.asarray(5.0)
        >>> value = Value(0.1 * penalty, {"penalty": penalty})  # what is followed has no weight
        >>> float(value.value), list(value.report)
        (0.5, ['penalty'])
    """

    value: Float[Array, ""]
    report: Mapping[str, Float[Array, ""]] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Term(abc.ABC):
    """A summand of a loss.

    Attributes:
        gradients: does it ask for `Pass.gradients`?
        epochs: does it ask for `Pass.epoch`?
        one_by_one: does it ask `Pass.over_members`?
        tried: is the loss traced where it is made, since not every network's layers can be asked?
        pairs_of_members: is it of an ensemble of at least two members?
        moves_images: does it make other images of its own of the batch's, whose loss it sees? Such
            a term has to say so, else adversarial training attacks its images first, in a ball
            around a ball; one that attacks `views` need not.

    Example:
        >>> import dataclasses
        >>> from robust_jax.methods import KAP, Term, Value
        >>> @dataclasses.dataclass(frozen=True)
        ... class LogitSqueezing(Term):
        ...     weight: float = 0.01
        ...     def __call__(self, passed):
        ...         squared = jnp.mean(jnp.sum(jnp.square(passed.member_logits), axis=-1))
        ...         return Value(self.weight * squared, {"squared_norm": squared})
        >>> [type(term).__name__ for term in KAP(terms=(LogitSqueezing(),)).all_terms]
        ['CrossEntropy', 'LogitSqueezing']
    """

    pairs_of_members: ClassVar[bool] = False
    moves_images: ClassVar[bool] = False
    gradients: ClassVar[bool] = False
    epochs: ClassVar[bool] = False
    one_by_one: ClassVar[bool] = False
    tried: ClassVar[bool] = False

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Returns what it asks of every member."""
        return ()

    @property
    def views(self) -> tuple[str, ...]:
        """Returns the views that it attacks."""
        return ()

    def check(self, network: NetworkConfig) -> None:
        """Raises ValueError, in one line, where it cannot be asked of a network."""
        if self.pairs_of_members:
            check_ensemble(network)

    @abc.abstractmethod
    def __call__(self, passed: Pass) -> Value:
        """Returns its value."""
