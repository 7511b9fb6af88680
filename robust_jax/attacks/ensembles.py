"""MORA: members of an ensemble reweighed at every step by what they have left to give."""

import dataclasses
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from robust_jax import rng, voting
from robust_jax.attacks import losses
from robust_jax.attacks.apgd import ALPHA, random_start
from robust_jax.attacks.bounded import BoundedAttack, start_keys
from robust_jax.attacks.checks import check_counts
from robust_jax.attacks.runs import Found, Given, Number, Path, Run, keep_better, nothing
from robust_jax.attacks.threat import ThreatModel
from robust_jax.checks import one_of
from robust_jax.types import Images, Labels

EnsembleRule = Literal["softmax", "logits", "voting"]

BETA = {"softmax": 0.2, "voting": 0.8, "logits": 0.0}
"""The authors' beta by rule."""

WIDEST = 10.0
"""Gap of a member's two largest logits from which on all members' logits are made smaller."""


def decide(
    logits: Float[Array, "*m b c"], rule: EnsembleRule, ties: voting.Ties = "lowest_class"
) -> Float[Array, "b c"]:
    """Returns the scores of an ensemble: log mean probability, mean logit, or share of votes.

    Args:
        logits: of the members; [b c] are those of one member.
        rule: which.
        ties: who wins of classes with as many votes.
    """
    logits = logits if logits.ndim == 3 else logits[None]
    if rule == "softmax":
        return losses.decision(logits)
    if rule == "logits":
        return voting.mean_logit(logits)
    return voting.majority(logits, ties=ties)


def lead(logits: Float[Array, "*m b c"]) -> Float[Array, "*m b"]:
    """Returns by how much the largest logit is larger than the next; no gradient flows through."""
    best, next_best = jnp.moveaxis(jax.lax.top_k(logits, 2)[0], -1, 0)
    return jax.lax.stop_gradient(best - next_best)


def reweighed(
    logits: Float[Array, "m b c"],
    labels: Labels,
    beta: float,
    wrong_too: bool,
) -> Float[Array, "b c"]:
    """Returns the members' logits, averaged by how much each moves the ensemble's probabilities.

    With P the mean softmax of the ensemble, k its likeliest class but the label y, and p a member's
    softmax at inverse temperature beta, d (log P_k - log P_y) / d z_k of that member's logits z is

        w = p_k ((1 - p_k) / P_k + p_y / P_y)

    up to a factor (and with p for the softmax itself). Logits are smaller by a factor for all
    members of an image where one leads by more than 10: that it leads by 10.

    Args:
        logits: of each member.
        labels: class of each image.
        beta: inverse temperature.
        wrong_too: have members that are wrong already weights?
    """
    shrink = jnp.maximum(jnp.max(lead(logits), axis=0) / WIDEST, 1)
    scaled = logits / shrink[None, :, None]
    fixed = jax.lax.stop_gradient(scaled)
    ensemble = jnp.mean(jax.nn.softmax(fixed), axis=0)
    own = jax.nn.one_hot(labels, ensemble.shape[1], dtype=jnp.bool_)
    rival = jnp.argmax(jnp.where(own, -1, ensemble), axis=1)
    of_member = jax.nn.softmax(beta * fixed * shrink[None, :, None])

    def chances(classes: Labels) -> tuple[Float[Array, "m b"], Float[Array, " b"]]:
        each = jax.vmap(losses.label_logits, (0, None))(of_member, classes)
        # Below the smallest normal number a quotient of them says nothing.
        return each, losses.label_logits(ensemble, classes) + jnp.finfo(each.dtype).tiny

    (p_k, large_p_k), (p_y, large_p_y) = chances(rival), chances(labels)
    weights = p_k * ((1 - p_k) / large_p_k[None] + p_y / large_p_y[None])
    if not wrong_too:
        weights = jnp.where(losses.decided(fixed) == labels[None], weights, 0)
    total = jnp.sum(weights, axis=0)
    weights = weights / jnp.where(total > 0, total, 1)[None]
    return jnp.sum(weights[..., None] * scaled, axis=0)


@dataclasses.dataclass(frozen=True)
class MORA(BoundedAttack):
    """An adaptive attack on an ensemble: members weighed by what each does to the decision rule.

    The view gives the members' logits [m b c] (of one network [b c]). A run of share s raises the
    cross-entropy of

        (1 - s) e / lead(e) + s sum_n w_n z_n / sum_n w_n,

    where e are the ensemble's own scores (rule "softmax": log mean softmax; "logits": mean logit;
    "voting": log mean softmax of the members' logits, each divided by its lead), lead is by how
    much the largest is larger than the next, z_n are the members' logits and w_n their weights
    (`reweighed`). Members that are wrong already have none, except by the rule "logits", where
    they count on. After the runs of all `mixtures` each of the likeliest other classes is tried,
    by the logarithm of its probability in e (of votes with logits that lead by ten). A step has the
    momentum of APGD's, and a length that falls from 2 eps to nothing along a cosine.

    Success is judged by the rule itself, and points that do not succeed compare by the margin of
    its scores. The weights are the paper's. The authors' code counts the ensemble's scores as one
    more member, divides the members' mean softmax by m + 1, and takes p_k with a minus where the
    ensemble is right, so that a member may weigh less than nothing.

    Attributes:
        threat: the ball.
        num_restarts: restarts, each with all mixtures and towards every target.
        parallel: all runs at once, at so many times the memory.
        num_steps: steps of one run.
        rule: how the ensemble decides.
        ties: who wins of classes with as many votes, by the rule "voting"; `MORA.of_vote` names
            both.
        beta: inverse temperature of the members' softmax in the weights; None for the authors' (.2
            of "softmax", .8 of "voting", 0 of "logits": all weigh the same).
        mixtures: s of the untargeted runs, in their order; 0 is the ensemble as it is.
        num_targets: targeted runs per restart.

    Raises:
        ValueError: there is no step or no run, no such rule, beta is negative, or a mixture is not
            in [0, 1].

    Example:
        >>> from robust_jax.attacks import MORA, ThreatModel
        >>> attack = MORA(ThreatModel("linf", 8 / 255), rule="voting", num_targets=4)
        >>> len(attack.mixtures), attack.num_runs  # called on members [m b c], as `ARC`
        (5, 9)

    References:
        Yu, Gao, Xu, "MORA: improving ensemble robustness evaluation with model-reweighing
        attack", 2022.
    """

    in_steps: ClassVar[bool] = True

    num_restarts: int = 1
    parallel: bool = False
    num_steps: int = 100
    rule: EnsembleRule = "softmax"
    ties: voting.Ties = "lowest_class"
    beta: float | None = None
    mixtures: tuple[float, ...] = (0.5, 0.0, 0.25, 0.75, 1.0)
    num_targets: int = 9

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        one_of(self, "rule", get_args(EnsembleRule))
        one_of(self, "ties", get_args(voting.Ties))
        if self.beta is not None and not 0 <= self.beta < float("inf"):
            raise ValueError(f"Expected beta={self.beta} >= 0 and finite.")
        if not all(0 <= share <= 1 for share in self.mixtures):
            raise ValueError(f"Expected mixtures={self.mixtures} to be shares in [0, 1].")
        if not self.num_kinds:
            raise ValueError("Expected mixtures=() with num_targets=0 to name a run.")

    @classmethod
    def of_vote(cls, threat: ThreatModel, vote: voting.Vote) -> "MORA":
        """Returns the attack on an ensemble that decides by this vote.

        Of the vote "borda", which MORA does not know, it attacks the mean probability.

        Args:
            threat: the ball.
            vote: of the method; what its `deployed` view decides by.

        Example:
            >>> from robust_jax.attacks import MORA, ThreatModel
            >>> attack = MORA.of_vote(ThreatModel("linf", 8 / 255), "majority_mean_probability")
            >>> attack.rule, attack.ties
            ('voting', 'mean_probability')
        """
        if vote == "majority_lowest_class":
            return cls(threat, rule="voting")
        if vote == "majority_mean_probability":
            return cls(threat, rule="voting", ties="mean_probability")
        return cls(threat, rule="logits" if vote == "mean_logit" else "softmax")

    def reduced(self) -> "MORA":
        """Returns the attack with three runs of forty steps: two mixtures, one target."""
        small = self.at_most(num_restarts=1, num_steps=40, num_targets=1)
        return dataclasses.replace(small, mixtures=self.mixtures[:2])

    @property
    def num_kinds(self) -> int:
        """Returns the number of runs of a restart: one a mixture and one a target."""
        return len(self.mixtures) + self.num_targets

    @property
    def num_runs(self) -> int:
        """Returns the number of runs."""
        return self.num_restarts * self.num_kinds

    def targets(self, given: Given) -> Int[Array, "b t"] | None:
        """Returns what runs of one restart are made towards; those of mixtures have the label."""
        if not self.num_targets:
            return None
        logits = given.view(given.images, key=rng.stream(given.key, "targets"))
        ranked = losses.ranked_targets(self.smooth(logits), given.labels, self.num_targets)
        own = jnp.repeat(given.labels[:, None].astype(ranked.dtype), len(self.mixtures), axis=1)
        return jnp.concatenate([own, ranked], axis=1)

    def planned(self, number: Number, targets: Int[Array, "b t"] | None) -> Run:
        """Returns the run of this number: all kinds of runs of the first restart come first."""
        target = None if targets is None else targets[:, number % self.num_kinds]
        return Run(number, restart=number // self.num_kinds, target=target)

    def success_scores(self, logits: Float[Array, "*m b c"]) -> Float[Array, "b c"]:
        """Returns the scores of the vote."""
        return decide(logits, self.rule, self.ties)

    def smooth(self, logits: Float[Array, "*m b c"]) -> Float[Array, "b c"]:
        """Returns scores with a gradient whose largest decides, of votes nearly."""
        logits = logits if logits.ndim == 3 else logits[None]
        if self.rule != "voting":
            return decide(logits, self.rule)
        return losses.decision(WIDEST * logits / self._leads(logits)[..., None])

    def mixed(
        self, logits: Float[Array, "m b c"], labels: Labels, share: Float[Array, ""]
    ) -> Float[Array, "b c"]:
        """Returns the logits whose cross-entropy an untargeted run raises.

        Args:
            logits: of each member.
            labels: class of each image.
            share: of the reweighed members; the rest is the ensemble's own.
        """
        own = decide(logits, self.rule)
        if self.rule == "voting":
            own = losses.decision(logits / self._leads(logits)[..., None])
        beta = BETA[self.rule] if self.beta is None else self.beta
        members = reweighed(logits, labels, beta, wrong_too=self.rule == "logits")
        return (1 - share) * own / self._leads(own)[:, None] + share * members

    def loss(
        self,
        logits: Float[Array, "*m b c"],
        labels: Labels,
        target: Labels,
        share: Float[Array, ""],
        targeted: Bool[Array, ""],
    ) -> Float[Array, " b"]:
        """Returns what a run raises: towards a target, or away from the label."""
        logits = logits if logits.ndim == 3 else logits[None]
        away = losses.cross_entropy(self.mixed(logits, labels, share), labels)
        return jnp.where(targeted, -losses.cross_entropy(self.smooth(logits), target), away)

    def run(self, run: Run, given: Given) -> Found:
        """Returns the best point of one run from one random start."""
        view, images, labels, key, index, _ = given
        threat, key = self.threat, rng.stream(key, "restart", run.number)
        kind = jnp.asarray(run.number) % self.num_kinds
        share = jnp.asarray((*self.mixtures, *(0.0,) * self.num_targets), images.dtype)[kind]
        target, targeted = (
            labels if run.target is None else run.target,
            kind >= len(self.mixtures),
        )

        def evaluated(points: Images, step: Number) -> tuple[Images, Array, Array]:
            return losses.gradient(
                lambda logits, labels: self.loss(logits, labels, target, share, targeted),
                view, points, labels, key=rng.stream(key, "view", step),
                decide_fn=self.success_scores,
            )  # fmt: skip

        def step(number, carry):
            points, before, gradient, best, path = carry
            # Step 0 only evaluates the start, so that the network is compiled once.
            length = threat.eps * (1 + jnp.cos((number - 1) / self.num_steps * jnp.pi))
            alpha = jnp.where(number > 1, ALPHA, 1.0).astype(points.dtype)
            there = threat.project(
                points + length.astype(points.dtype) * threat.steepest(gradient), images
            )
            moved = points + alpha * (there - points) + (1 - alpha) * (points - before)
            moved = jnp.where(number == 0, points, threat.project(moved, images))
            gradient, raised, scores = evaluated(moved, number)
            success = losses.misclassified(scores, labels)
            # Runs raise different losses: their ends compare by the margin of what decides.
            best = keep_better(best, Found(moved, success, losses.margin(scores, labels)))
            path = None if path is None else path.noted(number, raised, success)
            return moved, points, gradient, best, path

        start = random_start(threat, images, start_keys(key, index))
        _, like, _ = jax.eval_shape(lambda: evaluated(start, 0))
        path = Path.empty(self.num_steps, like) if run.watched else None
        carry = start, start, jnp.zeros_like(start), nothing(start, like), path
        *_, best, path = jax.lax.fori_loop(0, self.num_steps + 1, step, carry)
        return best._replace(path=path)

    @staticmethod
    def _leads(logits: Float[Array, "*m b c"]) -> Float[Array, "*m b"]:
        """Returns by how much members lead, never nothing, as a divisor."""
        return lead(logits) + losses.tiny(logits)
