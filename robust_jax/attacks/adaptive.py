"""Attacks made for a kind of defence: ensembles, noise, saturated logits.

Transfer from the noise-off copy of the same weights needs no attack of its own: attack the view
`noise_off` and judge by the deployed rule.

Whether float32 hides gradients is checked in float64, in a process of its own that is started with
JAX_ENABLE_X64=1 and JAX_PLATFORMS=cpu: attacks compute in the images' dtype, so the same attack on
`in_float64((view, images))` is all it takes (of a method: its configuration has dtype="float64").
"""

import abc
import dataclasses
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.apgd import APGDBase
from robust_jax.attacks.base import (
    BoundedAttack,
    Images,
    Index,
    KeyArray,
    Labels,
    WrappedAttack,
)
from robust_jax.attacks.checks import check_choice, check_counts, check_positive
from robust_jax.attacks.views import Average, eot
from robust_jax.types import View


def gap(logits: Float[Array, "*m b c"]) -> Float[Array, "*m b"]:
    """Returns the gap of the first and the third logit, a scale of each prediction.

    Raises:
        ValueError: fewer than three classes.
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"Expected num_classes={logits.shape[-1]} >= 3 to scale logits by a gap.")
    ordered = jnp.sort(logits, axis=-1)
    return ordered[..., -1] - ordered[..., -3] + losses.tiny(logits)


def decide(logits: Float[Array, "m b c"], rule: str) -> Float[Array, "b c"]:
    """Returns the scores of an ensemble: log mean probability, mean logit, or share of votes.

    Votes that are equal go to the lowest class.
    """
    if rule == "softmax":
        return losses.decision(logits)
    if rule == "logits":
        return jnp.mean(logits, axis=0)
    votes = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)
    broken = jnp.any(jnp.isnan(logits), axis=(0, 2))
    return jnp.where(broken[:, None], jnp.nan, jnp.mean(votes, axis=0))


@dataclasses.dataclass(frozen=True)
class MORA(APGDBase):
    """APGD on an ensemble's members, reweighted so that no member drowns the others.

    The view gives the members' logits [m b c]. Each member's logits are divided by its own gap
    (no gradient flows through the gap), so a member that is sure of itself weighs no more than
    the others, and one whose softmax is saturated still has a gradient. The loss is then

    - rules "softmax" and "voting": the cross-entropy of the mean softmax of `sharpness` times these
      logits. Its gradient weighs a member by how undecided it is, and it is a smooth share of
      votes;
    - rule "logits": the cross-entropy of the mean of the logits as they are, divided by that
      mean's gap (the mean is one network: reweighting members would attack another one).

    With `num_targets` > 0 each of the likeliest other classes is tried after the untargeted run.
    Success is judged by the rule itself. The name and the reweighting idea are the paper's; the
    weights here are ours, as written above (the authors' code averages logits instead, weighed by
    the derivative of the mean probability, and leaves out members that are wrong already). On a
    public ensemble they leave no more images standing than APGD on the mean softmax
    (`benchmarks/ensemble_attacks.py`); for votes, sums of the margins that a majority needs did.

    Attributes:
        rule: how the ensemble decides.
        sharpness: inverse temperature of the rescaled logits.
        num_targets: targeted runs per restart.

    References:
        Yu, Gao, Xu, "MORA: improving ensemble robustness evaluation with model-reweighing
        attack", 2022.
    """

    rule: Literal["softmax", "logits", "voting"] = "softmax"
    sharpness: float = 4.0
    num_targets: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_choice(self, "rule", ("softmax", "logits", "voting"))
        check_positive(self, "sharpness")
        if self.num_targets < 0:
            raise ValueError(f"Expected num_targets={self.num_targets} >= 0.")

    @property
    def num_runs(self) -> int:
        """Returns the number of runs: restarts, each untargeted and towards every target."""
        return self.num_restarts * (1 + self.num_targets)

    def run(
        self,
        number: Any,
        view: View,
        images: Images,
        labels: Labels,
        *,
        key: KeyArray,
        index: Index,
        **watched: bool,
    ) -> Any:
        """Returns the end of one run."""
        targets, targeted = labels, jnp.asarray(False)
        if self.num_targets:
            logits = decide(view(images, key=rng.stream(key, "targets")), "softmax")
            ranked = losses.ranked_targets(logits, labels, self.num_targets)
            kind = number % (1 + self.num_targets)
            targets, targeted = ranked[:, jnp.maximum(kind - 1, 0)], kind > 0

        return self.raise_loss(
            view,
            images,
            labels,
            loss_fn=self.loss_fn(targets, targeted),
            key=rng.stream(key, "restart", number),
            index=index,
            decide_fn=lambda logits: decide(logits, self.rule),
            **watched,
        )

    def loss_fn(self, targets: Labels | None, targeted: Any = True) -> losses.Loss:
        """Returns the members' loss: towards targets where `targeted`, else away from labels."""
        assert targets is not None  # every run has some
        return lambda logits, labels: self.members_loss(logits, labels, targets, targeted)

    def members_loss(
        self,
        logits: Float[Array, "m b c"],
        labels: Labels,
        targets: Labels,
        targeted: Bool[Array, ""],
    ) -> Float[Array, " b"]:
        """Returns the reweighted loss of each example."""

        def toward(logits):
            """Margin to the target's class, or to the best other one."""
            own = losses.label_logits(logits, labels)
            aim = losses.label_logits(logits, targets)
            return jnp.where(targeted, aim, losses.best_other(logits, labels)) - own

        if self.rule == "logits":
            mean = jnp.mean(logits, axis=0)
            mixed = self.sharpness * mean / jax.lax.stop_gradient(gap(mean))[:, None]
        else:
            scaled = logits / jax.lax.stop_gradient(gap(logits))[..., None]
            mixed = losses.decision(self.sharpness * scaled)
        return jnp.where(targeted, toward(mixed), losses.cross_entropy(mixed, labels))


@dataclasses.dataclass(frozen=True)
class OnAnotherView(WrappedAttack):
    """Another attack, on a view made of the one given.

    Attributes:
        attack: the attack, with this threat model.
    """

    attack: BoundedAttack

    def __post_init__(self) -> None:
        """Raises ValueError where the attack is not such a one."""
        super().__post_init__()
        inner = self.attack
        if not isinstance(inner, BoundedAttack) or inner.threat != self.threat or inner.on_host:
            raise ValueError(
                f"Expected attack={inner} to be a bounded one that can be traced, with "
                f"threat={self.threat!r}."
            )

    def reduced(self) -> Self:
        """Returns the attack at the small budget of a trial."""
        return dataclasses.replace(self, attack=self.attack.reduced())

    @abc.abstractmethod
    def attacked(self, view: View) -> Any:
        """Returns the view that the attack sees."""

    def has_start(
        self,
        view: View,
        images: Images,
        labels: Labels,
        *,
        key: KeyArray,
        index: Index,
        **pool: Any,
    ) -> Bool[Array, " b"]:
        """Returns which images the attack has a start for."""
        view = self.attacked(view)
        return self.attack.has_start(view, images, labels, key=key, index=index, **pool)

    def perturb(
        self,
        view: View,
        images: Images,
        labels: Labels,
        *,
        key: KeyArray,
        index: Index,
        **pool: Any,
    ) -> Images:
        """Returns the adversarial images."""
        view = self.attacked(view)
        return self.attack.perturb(view, images, labels, key=key, index=index, **pool)


@dataclasses.dataclass(frozen=True)
class Averaged(OnAnotherView):
    """Another attack on the average of fresh draws of a random model, for every noise defence.

    Attributes:
        num_samples: draws per evaluation; check with `standing_with_twice_the_draws`.
        average: what is averaged, see `eot`.
        parallel: all draws at once, at so many times the memory.
    """

    num_samples: int = 20
    average: Average = "gradients"
    parallel: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where the threat models differ or there are no draws."""
        super().__post_init__()
        check_counts(self, "num_samples")

    def reduced(self) -> Self:
        """Returns the attack at the small budget of a trial."""
        return super().reduced().at_most(num_samples=4)

    def attacked(self, view: View) -> Any:
        """Returns the average."""
        return eot(view, self.num_samples, average=self.average, parallel=self.parallel)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RescaledView:
    """Logits divided by their own gap: the same decision, never a saturated softmax."""

    view: View
    sharpness: float = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Array, *, key: KeyArray) -> Float[Array, "*s b c"]:
        """Returns the rescaled logits; no gradient flows through the gap."""
        logits = self.view(images, key=key)
        return self.sharpness * logits / jax.lax.stop_gradient(gap(logits))[..., None]


@dataclasses.dataclass(frozen=True)
class Rescaled(OnAnotherView):
    """Another attack on logits divided by their own gap, for saturated models.

    Where a softmax is saturated in float32 its gradient is exactly zero and a gradient attack does
    nothing; after rescaling the gradient's direction is that of the logits.

    Attributes:
        sharpness: gap of the rescaled logits.
    """

    sharpness: float = 4.0

    def __post_init__(self) -> None:
        """Raises ValueError where the threat models differ or the gap is not positive."""
        super().__post_init__()
        check_positive(self, "sharpness")

    def attacked(self, view: View) -> Any:
        """Returns the rescaled logits."""
        return RescaledView(view, self.sharpness)


def in_float64(tree: Any) -> Any:
    """Returns the tree (images, a view with its arrays) with every float array in float64.

    Raises:
        ValueError: the process was not started with JAX_ENABLE_X64=1.
    """
    if not jax.config.read("jax_enable_x64"):
        raise ValueError("Expected jax_enable_x64=False to be True: start with JAX_ENABLE_X64=1.")

    def widen(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(widen, tree)
