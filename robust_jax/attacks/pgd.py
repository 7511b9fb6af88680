"""FGSM, BIM, PGD: steps of fixed length along the gradient of a loss."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.bounded import FixedSteps, LossAttack, SegmentedAttack, start_keys
from robust_jax.attacks.checks import check_counts, check_positive
from robust_jax.attacks.runs import Found, Given, Number, Path, Run, keep_better, nothing
from robust_jax.attacks.threat import Norm, expand
from robust_jax.checks import one_of
from robust_jax.types import Images, Labels


class Moves(NamedTuple):
    """What runs of steps of one length are made of.

    Attributes:
        look: function of points to what is found there, by a key of its own.
        step: function of a step's number and points to what is found there, and the next points.
    """

    look: Callable[[Images], Found]
    step: Callable[[Number, Images], tuple[Found, Images]]


def moves(
    attack: LossAttack,
    run: Run,
    given: Given,
    *,
    step_size: float | Array,
    eps: Float[Array, " b"] | None = None,
    loss_fn: losses.Loss | None = None,
) -> Moves:
    """Returns the moves x <- project(ascend(x, direction, step_size)); arguments as of `climb`."""
    view, images, labels, key, *_ = given
    threat = attack.threat
    loss_fn = loss_fn or attack.loss_fn(view, images, key=key)
    view_key = rng.stream(key, "view", run.number)
    if eps is not None:
        step_size = expand(jnp.broadcast_to(step_size, labels.shape), images)

    def look(points: Images) -> Found:
        values, logits = losses.evaluate(
            loss_fn, view, points, labels, key=rng.stream(view_key, "end")
        )
        return Found(points, attack.succeeded(logits, labels), values)

    def step(number: Number, points: Images) -> tuple[Found, Images]:
        gradient, values, logits = losses.gradient(
            loss_fn, view, points, labels, key=rng.stream(view_key, "step", number)
        )
        here = Found(points, attack.succeeded(logits, labels), values)
        return here, threat.project(threat.ascend(points, gradient, step_size), images, eps=eps)

    return Moves(look, step)


def climb(
    attack: LossAttack,
    run: Run,
    given: Given,
    *,
    num_steps: Number,
    step_size: float | Array,
    start: Images | None = None,
    keep: Literal["best", "last"] = "last",
    eps: Float[Array, " b"] | None = None,
    loss_fn: losses.Loss | None = None,
) -> Found:
    """Returns the end of one run of x <- project(ascend(x, direction, step_size)).

    Args:
        attack: says what is raised, which ball it is, what counts as success.
        run: which run; a watched one has a number of steps that is not traced.
        given: what the attack is called with.
        num_steps: number of steps, which may be traced.
        step_size: length of a step, or one length per example [b].
        start: where to begin; None at the clean images.
        keep: "best": every point on the way competes, the start included; "last": the last one.
        eps: radius of each example's ball in place of the attack's.
        loss_fn: what is raised in place of the attack's loss.
    """
    look, move = moves(attack, run, given, step_size=step_size, eps=eps, loss_fn=loss_fn)
    start = given.images if start is None else start

    def step(number, carry):
        points, best, path = carry
        here, points = move(number, points)
        if path is not None:
            path = path.noted(number, here.loss, here.success)
        return points, None if best is None else keep_better(best, here), path

    best = path = None
    if keep == "best" or run.watched:
        loss = jax.eval_shape(look, start).loss
        best = nothing(start, loss) if keep == "best" else None
        path = Path.empty(num_steps, loss) if run.watched else None
    points, best, path = jax.lax.fori_loop(0, num_steps, step, (start, best, path))
    # Where only the images are asked for, XLA leaves this pass out with keep="last".
    end = look(points)
    if path is not None:
        path = path.noted(num_steps, end.loss, end.success)
    return (end if best is None else keep_better(best, end))._replace(path=path)


class Way(NamedTuple):
    """What PGD in segments carries from step to step; rows are examples.

    On a view that does not draw, a point is all that the next one depends on: where a run comes
    back to an earlier point it goes on as it did from there. The point at which a segment begins is
    held against the others of it, so circles as long as a segment are found, and almost at once:
    most have two to eight steps, which Brent's algorithm saw later or not at all.
    """

    points: Images
    best: Found
    ended: Bool[Array, " b"]  # has come back to the point at which a segment began


@dataclasses.dataclass(frozen=True)
class FGSM(LossAttack):
    """One step of length eps.

    Attributes:
        threat: the ball.
        loss: what is raised (targeted: lowered); "kl": away from the clean image's prediction.
        targeted: are the labels classes to reach, not to leave?

    Example:
        >>> from robust_jax.attacks import FGSM, ThreatModel, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.75, 0.625]]), jnp.asarray([0])
        >>> attack = FGSM(ThreatModel("linf", eps=0.125))
        >>> attack(view, images, labels, key=jax.random.key(0)).tolist()
        [[0.625, 0.75]]

    References:
        Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", 2015.
    """

    in_steps: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def reduced(self) -> "FGSM":
        """Returns the attack itself."""
        return self

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of the step."""
        return climb(self, run, given, num_steps=1, step_size=self.threat.eps)


@dataclasses.dataclass(frozen=True)
class BIM(FixedSteps):
    """Steps from the clean image; the last iterate.

    Attributes:
        threat: the ball.
        loss: what is raised (targeted: lowered); "kl": away from the clean image's prediction.
        targeted: are the labels classes to reach, not to leave?
        num_steps: number of steps.
        step_size: length of a step; None is eps / num_steps.

    Raises:
        ValueError: there is no step, or the step size is not positive.

    Example:
        >>> from robust_jax.attacks import BIM, ThreatModel, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.75, 0.625]]), jnp.asarray([0])
        >>> attack = BIM(ThreatModel("linf", eps=0.25), num_steps=4, step_size=0.125)
        >>> attack(view, images, labels, key=jax.random.key(0)).tolist()  # stays in the ball
        [[0.5, 0.875]]

    References:
        Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", 2017.
    """

    in_steps: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    num_steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for steps that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        check_positive(self, "step_size")

    def reduced(self) -> "BIM":
        """Returns the attack itself."""
        return self

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of the steps."""
        return climb(self, run, given, num_steps=self.num_steps, step_size=self.length)


@dataclasses.dataclass(frozen=True)
class PGD(FixedSteps, SegmentedAttack[Way]):
    """Steps from random points of the ball.

    Attributes:
        threat: the ball.
        loss: what is raised (targeted: lowered); "kl": away from the clean image's prediction.
        targeted: are the labels classes to reach, not to leave?
        num_steps: number of steps.
        step_size: length of a step; None is 2.5 * eps / num_steps (Madry et al.).
        random_start: start from a draw of the ball rather than from the clean image.
        start_sigma: standard deviation of a Gaussian draw around the clean image (.001 in TRADES
            and MART); None for a uniform draw of the ball.
        num_restarts: number of starts, of which the best end is kept.
        keep: "best": of all points on the way the best one (a success before a failure, then the
            larger loss; one more forward pass); "last": the last point, as most papers did.
        parallel: all restarts at once. Costs `num_restarts` times the memory; in turn (the default)
            the memory is that of one batch.
        min_probability: softmax probability of the wrong (targeted: the reached) class that
            counts as success; high-confidence PGD has .9.

    Raises:
        ValueError: steps or sizes are not positive, a start or restarts have no random draw, or
            `min_probability` is not in [0, 1).

    Example:
        >>> from robust_jax.attacks import PGD, ThreatModel, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5], [0.9, 0.5]]), jnp.asarray([0, 0])
        >>> attack = PGD(ThreatModel("linf", eps=0.1), num_steps=20)
        >>> adversarial = attack(view, images, labels, key=jax.random.key(0))
        >>> (view(adversarial, key=None).argmax(1) == labels).mean().item()  # robust accuracy
        0.5

    References:
        Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018. Doldo
        et al., "Stop walking in circles! Bailing out early in projected gradient descent", 2025
        (runs that end where they come back to an earlier point).
    """

    in_steps: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    reach: ClassVar[float] = 2.5

    num_steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    start_sigma: float | None = None
    num_restarts: int = 1
    keep: Literal["best", "last"] = "best"
    parallel: bool = False
    min_probability: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for steps or restarts that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        check_positive(self, "step_size")
        check_positive(self, "start_sigma")
        if self.start_sigma is not None and not self.random_start:
            raise ValueError(f"Expected start_sigma={self.start_sigma} with random_start=True.")
        if self.num_restarts > 1 and not self.random_start:
            raise ValueError(
                f"Expected num_restarts={self.num_restarts} to be 1 where random_start=False: "
                "every restart would be the same."
            )
        if not 0 <= self.min_probability < 1:
            raise ValueError(f"Expected min_probability={self.min_probability} in [0, 1).")
        one_of(self, "keep", ("best", "last"))

    def reduced(self) -> "PGD":
        """Returns the attack with one restart."""
        return self.at_most(num_restarts=1)

    def succeeded(self, logits: Float[Array, "b c"], labels: Labels) -> Bool[Array, " b"]:
        """Returns where the attack has reached its goal with the probability asked for."""
        reached = super().succeeded(logits, labels)
        if self.min_probability == 0:
            return reached
        return reached & (jnp.max(jax.nn.softmax(logits), axis=1) >= self.min_probability)

    def start(
        self, images: Images, keys: Key[Array, " b"], *, eps: Float[Array, " b"] | None = None
    ) -> Images:
        """Returns where a run begins; `eps` is as in `climb`."""
        if not self.random_start:
            return images
        if self.start_sigma is None:
            return self.threat.sample(images, keys, eps=eps)
        shape, dtype = images.shape[1:], images.dtype
        noise = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
        return self.threat.project(images + self.start_sigma * noise, images, eps=eps)

    @property
    def in_segments(self) -> bool:
        """Returns whether the first point that is misclassified decides, whatever follows it."""
        return self.keep == "best" and self.min_probability == 0

    def begin(self, run: Run, given: Given) -> Way:
        """Returns what a restart begins with, to be gone on with by `advance` from step 0."""
        start = self.start(given.images, start_keys(given.key, given.index, run.number))

        def look(points: Images) -> Found:
            return moves(self, run, given, step_size=self.length).look(points)

        best = nothing(start, jax.eval_shape(look, start).loss)
        return Way(start, best, ended=jnp.zeros(len(start), bool))

    def advance(self, state: Way, first: Number, last: Number, run: Run, given: Given) -> Way:
        """Returns the state after the steps from `first` to before `last`, as a run makes them."""
        look, move = moves(self, run, given, step_size=self.length)

        def step(number, way):
            here, points = move(number, way.points)
            same = jnp.all((points == state.points).reshape(len(points), -1), axis=1)
            return Way(points, keep_better(way.best, here), way.ended | same)

        way = jax.lax.fori_loop(first, last, step, state)
        best = jax.lax.cond(
            jnp.asarray(last == self.num_steps),
            lambda: keep_better(way.best, look(way.points)),
            lambda: way.best,
        )
        return way._replace(best=best)

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of one restart."""
        return climb(
            self,
            run,
            given,
            num_steps=self.num_steps,
            step_size=self.length,
            start=self.start(given.images, start_keys(given.key, given.index, run.number)),
            keep=self.keep,
        )
