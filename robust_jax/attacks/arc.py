"""ARC: members of a randomised ensemble pushed over their boundaries, one after the other."""

import dataclasses
import functools
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.bounded import BoundedAttack, start_keys
from robust_jax.attacks.checks import check_counts, check_nonnegative, check_positive
from robust_jax.attacks.linearised import LinearBoundary, dual_norm, nearest_of
from robust_jax.attacks.members import member_logits, member_of, num_members_of
from robust_jax.attacks.runs import Found, Given, Number, Path, Run
from robust_jax.attacks.threat import expand, size
from robust_jax.types import Images, KeyArray, Labels, View


class Support(NamedTuple):
    """The classifiers of which one is drawn, and with which probability each.

    Attributes:
        view: of all of them [m b c], or of one [b c].
        root: of the view's key, under which they stay the same.
        labels: class of each image.
        alpha: the probabilities.
    """

    view: View
    root: KeyArray
    labels: Labels
    alpha: Float[Array, " m"]

    @property
    def key(self) -> KeyArray:
        """Returns the view's key, the same each time."""
        return rng.stream(self.root, "support")

    def logits(self, points: Images, number: Int[Array, ""]) -> Float[Array, "b c"]:
        """Returns the logits of one classifier."""
        return member_logits(self.view, points, number, key=self.key)

    def expected_accuracy(self, points: Images) -> Float[Array, " b"]:
        """Returns the probability that the classifier which is drawn has each point right."""

        def weighed(logits: Array, alpha: Array) -> Float[Array, " b"]:
            return alpha * (losses.decided(logits) == self.labels).astype(alpha.dtype)

        if member_of(self.view) is None:
            logits = self.view(points, key=self.key)
            logits = logits if logits.ndim == 3 else logits[None]
            return jnp.sum(jax.vmap(weighed)(logits, self.alpha), axis=0)
        return jax.lax.fori_loop(
            0,
            len(self.alpha),
            lambda n, total: total + weighed(self.logits(points, n), self.alpha[n]),
            jnp.zeros(self.labels.shape, self.alpha.dtype),
        )


class Local(NamedTuple):
    """What an iteration carries from classifier to classifier.

    Attributes:
        points: the best so far.
        delta: the step that led there from the iteration's start, before it met ball and box.
        accuracy: expected, at the points.
    """

    points: Images
    delta: Images
    accuracy: Float[Array, " b"]


@dataclasses.dataclass(frozen=True)
class ARC(BoundedAttack):
    """ARC: steps over each classifier's nearest boundary, kept where fewer of them are right.

    For a model that decides by one classifier f_i, drawn with probability alpha_i: a randomised
    ensemble, one member of an ensemble at random, one draw of a random method. What falls is the
    expected accuracy of the draw, sum_i alpha_i [f_i(x) = y]. Gradients of a mean loss may miss a
    point of lower expected accuracy though there is one, even where all classifiers are linear:
    the classifier with the largest gradient decides where they go, whether it can fall or not. For
    linear ones ARC finds a point that fools a classifier wherever there is one.

    The view gives the logits of all classifiers [m b c] (of one network [b c]). Each of K
    iterations takes the classifiers by falling alpha, from x_0, where it begins, and delta = 0. Of
    f_i at x_0 + delta the nearest linearised boundary is zeta away from x_0 in the direction g::

        beta = eta / (eta - zeta) |zeta - <g', delta>| + rho eps    (eta if it is the first, or
                                                                     zeta >= eta),
        delta' = eta (delta + beta g) / |delta + beta g|,

    with g' = g in L2, in Linf the gradient over its L1 norm, so that what has been won of the
    classifiers before is kept as far as it can be. delta' replaces delta where the expected
    accuracy is no larger there, in ball and box. An image that no classifier has right rests.

    The boundary is linearised at x_0 + delta in ball and box, where the step begins; its distance
    from x_0 is the one from there plus <g', delta>. The authors' code takes the one from there for
    zeta itself (and linearises before ball and box). That is shorter than the theorem wants where
    delta leads to the boundary, and longer where it leads away, which on networks leaves fewer of
    them right: beta is the larger of the two.

    Of a random model the support is sampled: `Averaged(threat, ARC(threat), num_samples=16)`
    attacks sixteen draws, the same throughout a call, each computed alone. A judge's draws are
    others.

    Guarantees:
        Also: the expected accuracy never rises on the way of a run (with `first` it is no higher
        than at that attack's end), and success is that it is zero, so that the best of several
        runs is the one of lowest expected accuracy.

    Attributes:
        threat: the ball.
        num_restarts: runs: the first begins at the image, others at draws of the ball.
        parallel: all runs at once, at so many times the memory.
        num_steps: iterations (K). Each costs m (1 + `num_candidates`) + m^2 passes of a
            classifier, as far as the view computes one alone (`members.member_of`); of another
            view each is a pass of all.
        step_size: length of delta (eta); None is eps in Linf and eps / 4 in L2, as in the paper's
            tables.
        rho: how far beyond a boundary, as a share of eps.
        num_candidates: with how many of a classifier's likeliest other classes boundaries are
            compared (G; all nine of CIFAR-10 in the paper, 4 where there are more classes); None
            for all.
        weights: alpha, one for each classifier; empty for uniform. Those of weight 0 are left out.
        first: attack at whose end the first run begins, in place of at the image, such as `APGD`,
            which raises the mean of the classifiers' losses: where their gradients agree it is
            strong, and what it leaves ARC takes from there.

    Raises:
        ValueError: counts or the step size are not positive, weights are negative or do not sum to
            1, or `first` is targeted, on the host, or in another ball.

    Example:
        >>> from robust_jax.attacks import ARC, ThreatModel, as_view
        >>> members = as_view(lambda x: jnp.stack([x[:, :2], x[:, 2:]]))  # two of two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5, 0.7, 0.5]]), jnp.asarray([0])
        >>> attack = ARC(ThreatModel("linf", eps=0.2))
        >>> adversarial = attack(members, images, labels, key=jax.random.key(0))
        >>> members(adversarial, key=None).argmax(-1).tolist()  # neither may be drawn
        [[1], [1]]

    References:
        Dbouk and Shanbhag, "Adversarial vulnerability of randomized ensembles", ICML 2022
        (algorithms 1 and 2).
    """

    in_steps: ClassVar[bool] = True

    num_restarts: int = 1
    parallel: bool = False
    num_steps: int = 20
    step_size: float | None = None
    rho: float = 0.05
    num_candidates: int | None = 9
    weights: tuple[float, ...] = ()
    first: BoundedAttack | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        check_positive(self, "step_size")
        check_nonnegative(self, "rho")
        if self.num_candidates is not None:
            check_counts(self, "num_candidates")
        if self.weights and not (
            min(self.weights) >= 0 and math.isclose(sum(self.weights), 1, abs_tol=1e-6)
        ):
            raise ValueError(f"Expected weights={self.weights} to be >= 0 and to sum to 1.")
        if self.first is not None and (
            self.first.threat != self.threat or self.first.targeted or self.first.on_host
        ):
            raise ValueError(
                f"Expected first={self.first} to be an untargeted one that can be traced, with "
                f"threat={self.threat!r}."
            )

    def reduced(self) -> "ARC":
        """Returns the attack with one restart of ten iterations, towards four classes."""
        few = 4 if self.num_candidates is None else min(4, self.num_candidates)
        first = None if self.first is None else self.first.reduced()
        small = self.at_most(num_restarts=1, num_steps=10)
        return dataclasses.replace(small, num_candidates=few, first=first)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Returns the step size as it is given, and the length of a local step."""
        return (*super().leaves, "step_size", "eta")

    @functools.cached_property
    def eta(self) -> float:
        """Returns the length of a local step."""
        if self.step_size is not None:
            return self.step_size
        return self.threat.eps / (1 if self.threat.norm == "linf" else 4)

    def alpha(self, num_members: int) -> Float[np.ndarray, " m"]:
        """Returns the probability of each classifier.

        Raises:
            ValueError: `weights` are not so many.
        """
        if self.weights and len(self.weights) != num_members:
            raise ValueError(
                f"Expected weights={self.weights} to be one for each of {num_members} members."
            )
        return np.asarray(self.weights or (1 / num_members,) * num_members)

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of one run."""
        view, images, labels, key, *_ = given
        root = rng.stream(key, "members")  # the same in all runs
        alpha = self.alpha(num_members_of(view, images, key=rng.stream(root, "shape")))
        support = Support(view, root, labels, jnp.asarray(alpha, images.dtype))
        # A classifier that is never drawn need not be followed.
        order = jnp.asarray(np.argsort(-alpha, kind="stable")[: np.count_nonzero(alpha)])

        def over_all(points: Images, accuracy: Array) -> tuple[Images, Array]:
            local = Local(points, jnp.zeros_like(points), accuracy)

            def over_one(place: Number, local: Local) -> Local:
                boundary = self.boundary(support, local.points, order[place])
                return self.stepped(local, points, boundary, place, images, support)

            local = jax.lax.fori_loop(0, len(order), over_one, local)
            return local.points, local.accuracy

        def iteration(number, carry):
            points, accuracy, path = carry
            points, accuracy = jax.lax.cond(
                jnp.any(accuracy > 0), over_all, lambda *same: same, points, accuracy
            )
            if path is not None:
                path = path.noted(number + 1, -accuracy, accuracy == 0)
            return points, accuracy, path

        points = self.start(run, given)
        accuracy, path = support.expected_accuracy(points), None
        if run.watched:
            path = Path.empty(self.num_steps, jax.eval_shape(lambda: accuracy))
            path = path.noted(0, -accuracy, accuracy == 0)
        carry = points, accuracy, path
        points, accuracy, path = jax.lax.fori_loop(0, self.num_steps, iteration, carry)
        return Found(points, accuracy == 0, -accuracy, path)

    def start(self, run: Run, given: Given) -> Images:
        """Returns where a run begins."""

        def image() -> Images:
            if self.first is None:
                return given.images
            return self.first.perturb(given._replace(key=rng.stream(given.key, "first")))

        def drawn() -> Images:
            keys = start_keys(given.key, given.index, run.number)
            return self.threat.sample(given.images, keys)

        if self.num_restarts == 1:
            return image()
        return jax.lax.cond(jnp.asarray(run.restart) == 0, image, drawn)

    def boundary(self, support: Support, points: Images, number: Int[Array, ""]) -> LinearBoundary:
        """Returns a classifier's nearest linearised boundary, of the class that it decides for."""
        logits, pullback = jax.vjp(lambda x: support.logits(x, number), points)
        decided, num_others = jnp.argmax(logits, axis=1), logits.shape[1] - 1
        return nearest_of(
            logits,
            lambda slope: pullback(slope)[0],
            points,
            decided,
            losses.ranked_targets(
                logits, decided, min(self.num_candidates or num_others, num_others)
            ),
            norm=self.threat.norm,
        )

    def stepped(
        self,
        local: Local,
        start: Images,
        boundary: LinearBoundary,
        place: Number,
        images: Images,
        support: Support,
    ) -> Local:
        """Returns what is carried on after a step over a boundary, example by example.

        Args:
            local: what the classifiers before have led to.
            start: of the iteration.
            boundary: of the next classifier, linearised at the local points.
            place: of the classifier in their order.
            images: clean ones, the centres of the balls.
            support: of whose draw the expected accuracy is.
        """
        threat, eta, size_of = self.threat, self.eta, dual_norm(self.threat.norm, boundary.gradient)
        unit = boundary.gradient / expand(jnp.where(size_of > 0, size_of, 1), boundary.gradient)
        along = jnp.sum((unit * (local.points - start)).reshape(len(start), -1), axis=1)

        def length(zeta: Array) -> Array:
            within = zeta < eta
            enough = eta / jnp.where(within, eta - zeta, 1) * jnp.abs(zeta - along)
            return jnp.where(within, enough + self.rho * threat.eps, eta)

        # What the theorem wants, or more where the way so far leads off from the boundary.
        beta = jnp.maximum(length(boundary.distance + along), length(boundary.distance))
        beta = jnp.where(place == 0, eta, beta)
        step = local.delta + expand(beta, start) * threat.steepest(boundary.gradient)
        norm = size(threat.norm, step)
        step = step * expand(eta / jnp.where(norm > 0, norm, 1), step)
        points = threat.project(start + step, images)
        accuracy = support.expected_accuracy(points)
        kept = (accuracy <= local.accuracy) & (local.accuracy > 0)
        return jax.tree.map(
            lambda new, old: jnp.where(expand(kept, old), new, old),
            Local(points, step, accuracy),
            local,
        )
