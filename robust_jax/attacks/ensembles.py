"""Attacks on an ensemble by the logits of its members."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.apgd import check_share, climb, random_start
from robust_jax.attacks.bounded import BoundedAttack, start_keys
from robust_jax.attacks.checks import check_counts, check_positive
from robust_jax.attacks.runs import Found, Given, Number, Run
from robust_jax.checks import one_of
from robust_jax.types import Labels


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
class MORA(BoundedAttack):
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
        num_restarts: restarts, each untargeted and towards every target.
        parallel: all runs at once, at so many times the memory.
        num_steps: steps of one run, as of `APGD`.
        rho: as of `APGD`.
        rule: how the ensemble decides.
        sharpness: inverse temperature of the rescaled logits.
        num_targets: targeted runs per restart.

    References:
        Yu, Gao, Xu, "MORA: improving ensemble robustness evaluation with model-reweighing
        attack", 2022.
    """

    in_steps: ClassVar[bool] = True

    num_restarts: int = 1
    parallel: bool = False
    num_steps: int = 100
    rho: float = 0.75
    rule: Literal["softmax", "logits", "voting"] = "softmax"
    sharpness: float = 4.0
    num_targets: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        check_share(self.rho)
        one_of(self, "rule", ("softmax", "logits", "voting"))
        check_positive(self, "sharpness")

    def reduced(self) -> "MORA":
        """Returns the attack with one restart."""
        return self.at_most(num_restarts=1)

    @property
    def num_runs(self) -> int:
        """Returns the number of runs: restarts, each untargeted and towards every target."""
        return self.num_restarts * (1 + self.num_targets)

    def targets(self, given: Given) -> Int[Array, "b t"] | None:
        """Returns what runs of one restart are made towards; the untargeted first has the label."""
        if not self.num_targets:
            return None
        members = given.view(given.images, key=rng.stream(given.key, "targets"))
        ranked = losses.ranked_targets(decide(members, "softmax"), given.labels, self.num_targets)
        return jnp.concatenate([given.labels[:, None].astype(ranked.dtype), ranked], axis=1)

    def planned(self, number: Number, targets: Int[Array, "b t"] | None) -> Run:
        """Returns the run of this number: all kinds of runs of the first restart come first."""
        if targets is None:
            return Run(number, restart=number)
        num_kinds = 1 + self.num_targets
        return Run(number, restart=number // num_kinds, target=targets[:, number % num_kinds])

    def run(self, run: Run, given: Given) -> Found:
        """Returns the best point of one run from one random start."""
        view, images, labels, key, index, _ = given
        key = rng.stream(key, "restart", run.number)
        target = labels if run.target is None else run.target
        return climb(
            view,
            images,
            labels,
            random_start(self.threat, images, start_keys(key, index)),
            loss_fn=lambda logits, labels: self.members_loss(logits, labels, target),
            threat=self.threat,
            num_steps=self.num_steps,
            rho=self.rho,
            key=rng.stream(key, "view"),
            decide_fn=lambda logits: decide(logits, self.rule),
            watched=run.watched,
        )

    def members_loss(
        self,
        logits: Float[Array, "m b c"],
        labels: Labels,
        target: Labels,
    ) -> Float[Array, " b"]:
        """Returns the reweighted loss of each example: towards the target, or from the label."""
        if self.rule == "logits":
            mean = jnp.mean(logits, axis=0)
            mixed = self.sharpness * mean / jax.lax.stop_gradient(losses.spread(mean))[:, None]
        else:
            scaled = logits / jax.lax.stop_gradient(losses.spread(logits))[..., None]
            mixed = losses.decision(self.sharpness * scaled)
        towards, away = losses.gap(mixed, labels, target), losses.cross_entropy(mixed, labels)
        return jnp.where(target != labels, towards, away)
