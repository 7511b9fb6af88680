"""Judging: what a model decides on images, by the rules of a protocol."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import metrics, rng, voting
from robust_jax.attacks import Passes, eot, losses
from robust_jax.attacks.threat import size
from robust_jax.attacks.views import each_alone
from robust_jax.evaluation.attack_runs import AttackRun
from robust_jax.evaluation.judges import Judge
from robust_jax.methods import Method
from robust_jax.types import Batch, Variables, View


class Decisions(NamedTuple):
    """What one judge says of a batch.

    Attributes:
        prediction: class of the largest score; -1, which is no label, where a score is NaN.
        top5: classes of the five largest scores (fewer where there are fewer classes); -1 likewise.
        share_correct: share of the judge's draws of which each alone decides for the label; of a
            deterministic method 0 or 1.
        share_rejudged: share that decides for the label of all judgements that the draws are enough
            for, the one that counts among them.
    """

    prediction: Int[Array, " b"]
    top5: Int[Array, "b n"]
    share_correct: Float[Array, " b"]
    share_rejudged: Float[Array, " b"]


class Judgement(NamedTuple):
    """What the harness finds on a batch of images, clean or attacked.

    Attributes:
        decisions: by judge.
        linf: largest change of a pixel.
        l2: Euclidean norm of the change.
        l1: sum of the absolute changes of all values.
        l0: pixels that change, whatever of their channels (`attacks.threat.Norm`).
        view_fooled: does the attacked view itself, under a fresh key, have it wrong? False on
            clean images.
        shown: the first `NUM_SHOWN` images, for the report.
        started: of an attack that begins at other images, which images it found a start for.
        passes: of the attack.
    """

    decisions: dict[str, Decisions]
    linf: Float[Array, " b"]
    l2: Float[Array, " b"]
    l1: Float[Array, " b"]
    l0: Float[Array, " b"]
    view_fooled: Bool[Array, " b"]
    shown: Float[Array, "n ..."]
    started: Bool[Array, " b"] | None = None
    passes: Passes | None = None


NUM_SHOWN = 8


@runtime_checkable
class Predictor(Protocol):
    """Returns the scores of every draw.

    A row's draws are those of the key and its index (default: its place), whatever rows are beside
    it.
    """

    def __call__(
        self,
        variables: Variables,
        images: Float[Array, "b h w k"],
        /,
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"] | None = None,
    ) -> Float[Array, "s b c"]: ...


@runtime_checkable
class Panel(Protocol):
    """Returns what every judge decides on the images of a batch, clean or attacked."""

    def __call__(
        self, variables: Variables, batch: Batch, images: Float[Array, "b h w k"], /
    ) -> dict[str, Decisions]: ...


def predictor(method: Method, judge: Judge, seed: int) -> Predictor:
    """Returns the scores of each draw that a judge decides by, probabilities where it has several.

    Raises:
        ValueError: the method has no such view.
    """
    if not judge.of_a_member:
        return _draws(method, judge.view, seed, judge.num_deciding, shared=judge.rule == "fixed")
    members = _members(method)

    def drawn(
        variables: Variables,
        images: Array,
        /,
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"] | None = None,
    ) -> Float[Array, "1 b c"]:
        return members(variables, images, key=key, index=index)[:1]

    return drawn


def panel(method: Method, judges: Mapping[str, Judge], seed: int, num_submissions: int) -> Panel:
    """Returns what all judges decide, each row by the draws that the seed and its index give.

    Judges of one view see the same draws, which are made once.

    Args:
        method: what is judged.
        judges: by name.
        seed: root of the draws.
        num_submissions: how often an image is submitted to what is deployed, at least.

    Raises:
        ValueError: the method has no such view.
    """
    kinds = {name: (judge.view, judge.rule == "fixed") for name, judge in judges.items()}
    counts = {
        name: None if judge.of_a_member else judge.num_drawn(num_submissions)
        for name, judge in judges.items()
    }
    predictors = {}
    for view, shared in dict.fromkeys(kinds.values()):
        most = [counts[name] for name in kinds if kinds[name] == (view, shared)]
        numbers = [count for count in most if count is not None]
        predictors[view, shared] = (
            _draws(method, view, seed, max(numbers), shared=shared) if numbers else _members(method)
        )

    def decisions(variables: Variables, batch: Batch, images: Array) -> dict[str, Decisions]:
        key = rng.stream(jax.random.key(seed), "judge")
        scores = {
            kind: predict(variables, images, key=key, index=batch.index)
            for kind, predict in predictors.items()
        }
        return {
            name: decide(scores[kinds[name]][: counts[name]], batch.label, judge.num_deciding)
            for name, judge in judges.items()
        }

    return decisions


def _draws(
    method: Method, view: str | None, seed: int, num_draws: int, *, shared: bool
) -> Predictor:
    """Returns the scores of some draws, each row's its own, or shared by all rows."""
    predict = method.predict if view is None else method.view(view)

    def decided(
        variables: Variables,
        images: Array,
        /,
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"] | None = None,
    ) -> Float[Array, "1 b c"]:
        del key, index  # who needs a key says stochastic=True
        try:
            return predict(variables, images, key=None)[None]
        except TypeError as error:
            if "PRNG key" not in str(error):
                raise
            raise ValueError(
                "Expected a method that asks for a key to say stochastic=True."
            ) from error

    def drawn(
        variables: Variables,
        images: Array,
        /,
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"] | None = None,
    ) -> Float[Array, "s b c"]:
        if shared:
            keys, axis = rng.stream(jax.random.key(seed), "fixed judge"), None
        else:
            index = jnp.arange(len(images)) if index is None else index
            keys, axis = rng.per_example(key, index), 0

        def draw(number):
            def of_one(image, key):  # alone: a method that draws once a call draws for one row
                return predict(variables, image[None], key=rng.stream(key, "draw", number))[0]

            logits = jax.vmap(of_one, in_axes=(0, axis))(images, keys)
            return jax.nn.softmax(voting.in_float32(logits), axis=-1)

        return jax.lax.map(draw, jnp.arange(num_draws))

    return drawn if method.stochastic else decided


def _members(method: Method) -> Predictor:
    """Returns the scores of all members, first the one that a row's own draw is.

    Those of a random method are of one pass, drawn for the row.
    """
    view = method.view("members")

    def members(
        variables: Variables,
        images: Array,
        /,
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"] | None = None,
    ) -> Float[Array, "m b c"]:
        keys = rng.per_example(key, jnp.arange(len(images)) if index is None else index)

        def of_one(image: Array, key: Key[Array, ""]) -> Float[Array, "m c"]:
            return view(variables, image[None], key=rng.stream(key, "draw", 0))[:, 0]

        if method.stochastic:
            logits = jax.vmap(of_one, out_axes=1)(images, keys)
        else:
            logits = view(variables, images, key=None)

        def drawn(key: Key[Array, ""]) -> Int[Array, ""]:
            return jax.random.randint(rng.stream(key, "member"), (), 0, len(logits))

        order = (jnp.arange(len(logits))[:, None] + jax.vmap(drawn)(keys)[None]) % len(logits)
        logits = voting.in_float32(logits)
        return jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order[..., None], axis=0)

    return members


def averaged(view: View, num_draws: int, seed: int) -> View:
    """Returns the view of the predictor that "fixed" judges: log of the mean probability.

    Under the seed's own key: the same draws for every image, whatever batch it is in, so that it is
    a deterministic model.
    """
    return each_alone(eot(view, num_draws), key=rng.stream(jax.random.key(seed), "fixed judge"))


def seen_by(run: AttackRun, view: View, seed: int) -> View:
    """Returns the view that the attack of a row sees, of the view that it is aimed at.

    Args:
        run: the row.
        view: of one draw.
        seed: of the fixed predictor's draws.
    """
    if run.draws == "fixed":
        return averaged(view, run.eot_samples, seed)
    return eot(view, run.eot_samples) if run.eot_samples > 1 else view


def judge_images(
    judges: Panel,
    variables: Variables,
    batch: Batch,
    images: Float[Array, "b ..."],
    key: Key[Array, ""],
    attacked_view: View | None = None,
    decision: losses.Decide = losses.decision,
) -> Judgement:
    """Returns how far images are from the clean ones of a batch, and every judge's decisions.

    Args:
        judges: of the method.
        variables: the method's arrays.
        batch: the clean images and their labels.
        images: what is judged.
        key: of the attacked view, which no attack saw.
        attacked_view: what the attack saw; None for clean images.
        decision: by which the attack judges what it saw.
    """
    change = images - batch.image
    delta = change.reshape(len(images), -1)
    view_fooled = jnp.zeros(len(images), bool)
    if attacked_view is not None:
        logits = decision(attacked_view(images, key=rng.stream(key, "attacked view")))
        view_fooled = losses.misclassified(logits, batch.label)
    return Judgement(
        decisions=judges(variables, batch, images),
        linf=jnp.max(jnp.abs(delta), axis=-1),
        l2=jnp.sqrt(jnp.sum(jnp.square(delta), axis=-1)),
        l1=size("l1", change),
        l0=size("l0", change),
        view_fooled=view_fooled,
        shown=images[:NUM_SHOWN],
    )


def decide(scores: Float[Array, "s b c"], labels: Int[Array, " b"], num_deciding: int) -> Decisions:
    """Returns the decisions of the mean over the first draws, ties to the lower class.

    Args:
        scores: of every draw.
        labels: classes.
        num_deciding: draws that decide together; a deterministic method has one.
    """
    num_deciding = min(num_deciding, len(scores))
    num_judgements = len(scores) // num_deciding
    judged = scores[: num_judgements * num_deciding]
    means = jnp.mean(judged.reshape((num_judgements, num_deciding, *scores.shape[1:])), axis=1)

    def share(scores: Array) -> Float[Array, " b"]:
        right = losses.decided(scores) == labels[None]
        return jnp.mean(right.astype(jnp.float32), axis=0)

    prediction = losses.decided(means[0]).astype(jnp.int32)
    top5 = metrics.top_classes(means[0], 5).astype(jnp.int32)
    return Decisions(
        prediction=prediction,
        top5=jnp.where(prediction[:, None] < 0, -1, top5),
        share_correct=share(scores),
        share_rejudged=share(means),
    )
