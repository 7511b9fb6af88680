"""Judging: what a model decides on images, by the rules of a protocol."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import metrics, rng
from robust_jax.attacks import eot, losses
from robust_jax.methods import Method
from robust_jax.protocol import Judge
from robust_jax.types import Batch, Variables


class Decisions(NamedTuple):
    """What one judge says of a batch.

    Attributes:
        prediction: class of the largest score; -1, which is no label, where a score is NaN.
        top5: classes of the five largest scores (fewer where there are fewer classes); -1 likewise.
        share_correct: share of the judge's draws of which each alone decides for the label; of a
            deterministic method 0 or 1.
    """

    prediction: Int[Array, " b"]
    top5: Int[Array, "b n"]
    share_correct: Float[Array, " b"]


class Judgement(NamedTuple):
    """What the harness finds on a batch of images, clean or attacked.

    Attributes:
        decisions: by judge.
        linf: largest change of a pixel.
        l2: Euclidean norm of the change.
        view_fooled: does the attacked view itself, under a fresh key, have it wrong? False on
            clean images.
        shown: the first `NUM_SHOWN` images, for the report.
        started: of an attack that begins at other images, which images it found a start for.
    """

    decisions: dict[str, Decisions]
    linf: Float[Array, " b"]
    l2: Float[Array, " b"]
    view_fooled: Bool[Array, " b"]
    shown: Float[Array, "n ..."]
    started: Bool[Array, " b"] | None = None


NUM_SHOWN = 8


Predictor = Callable[..., Float[Array, "s b c"]]
"""(variables, images, *, key) -> scores of every draw."""


def predictor(method: Method, judge: Judge, seed: int) -> Predictor:
    """Returns the scores of each of a judge's draws, probabilities where there are several.

    Raises:
        ValueError: the method has no such view.
    """
    predict = method.predict if judge.view is None else method.view(judge.view)
    if not method.stochastic:
        return lambda variables, images, *, key: predict(variables, images, key=None)[None]

    def fresh(variables, images, *, key):
        def draw(number):
            scores = predict(variables, images, key=rng.stream(key, "draw", number))
            return jax.nn.softmax(scores, axis=-1)

        num_draws = 1 if judge.rule == "paper" else judge.num_draws
        return jax.lax.map(draw, jnp.arange(num_draws))

    return fixed(fresh, seed) if judge.rule == "fixed" else fresh


def fixed(function: Callable[..., Array], seed: int) -> Callable[..., Array]:
    """Returns a random function of images (axis -2 of its result) under the seed's own key.

    The same noise for every image, whatever batch it is in: a deterministic model.
    """

    def of_batch(variables, images, *, key):
        del key
        root = rng.stream(jax.random.key(seed), "fixed judge")

        def of_one(image):
            return function(variables, image[None], key=root)

        return jnp.squeeze(jax.vmap(of_one, out_axes=-2)(images), axis=-3)

    return of_batch


def averaged(method_view: Callable[..., Array], num_draws: int, seed: int) -> Callable[..., Array]:
    """Returns the view of the predictor that "fixed" judges: log of the mean probability."""

    def of_draws(variables, images, *, key):
        return eot(jax.tree_util.Partial(method_view, variables), num_draws)(images, key=key)[None]

    return lambda variables, images, *, key: fixed(of_draws, seed)(variables, images, key=key)[0]


def judge_images(
    predictors: dict[str, Predictor],
    variables: Variables,
    batch: Batch,
    images: Float[Array, "b ..."],
    key: Key[Array, ""],
    attacked_view: Any = None,
) -> Judgement:
    """Returns how far images are from the clean ones of a batch, and every judge's decisions.

    Args:
        predictors: by judge.
        variables: the method's arrays.
        batch: the clean images and their labels.
        images: what is judged.
        key: that no attack saw.
        attacked_view: what the attack saw; None for clean images.
    """
    delta = (images - batch.image).reshape(len(images), -1)
    view_fooled = jnp.zeros(len(images), bool)
    if attacked_view is not None:
        logits = losses.decision(attacked_view(images, key=rng.stream(key, "attacked view")))
        view_fooled = losses.misclassified(logits, batch.label)
    return Judgement(
        decisions={
            # Not folded with the judge's name: judges of one rule see the same draws.
            name: decide(predict(variables, images, key=key), batch.label)
            for name, predict in predictors.items()
        },
        linf=jnp.max(jnp.abs(delta), axis=-1),
        l2=jnp.sqrt(jnp.sum(jnp.square(delta), axis=-1)),
        view_fooled=view_fooled,
        shown=images[:NUM_SHOWN],
    )


def decide(scores: Float[Array, "s b c"], labels: Int[Array, " b"]) -> Decisions:
    """Returns the decisions of the mean over draws, ties to the lower class."""
    mean: Any = jnp.mean(scores, axis=0)
    alone = losses.decided(scores) == labels[None]
    prediction = losses.decided(mean).astype(jnp.int32)
    top5 = metrics.top_classes(mean, 5).astype(jnp.int32)
    return Decisions(
        prediction=prediction,
        top5=jnp.where(prediction[:, None] < 0, -1, top5),
        share_correct=jnp.mean(alone.astype(jnp.float32), axis=0),
    )
