"""How the terms of a loss are asked: of a whole network, member by member, or draw by draw."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int, Key

from robust_jax import metrics, rng, voting
from robust_jax.methods.base import Epochs, Forward, Init, InRun, Loss, MethodConfig, find_view
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.runs import Asked, Member, Members, Report, Runs, cross_entropy
from robust_jax.methods.terms import Epoch, Pass, Value
from robust_jax.models import EnsembleConfig, Mode
from robust_jax.models.changes import check_names, on_images
from robust_jax.models.ensemble import map_members, of_ensemble
from robust_jax.types import Batch, MethodView, Task, Variables

T = TypeVar("T")
TRAINING = Mode(train=True, deterministic=False)


@runtime_checkable
class FeatureFactors(Protocol):
    """Returns what pooled features are multiplied by, constants, and what is told of them."""

    def __call__(
        self, features: Float[Array, "m b f"], key: Key[Array, ""], /
    ) -> tuple[Float[Array, "m b f"], Report]: ...


@runtime_checkable
class Draw(Protocol):
    """Returns the logits of a draw of a random network in training, and moved collections."""

    def __call__(
        self,
        variables: Variables,
        images: Float[Array, "b h w k"],
        key: Key[Array, ""] | None,
        number: Int[Array, ""],
        /,
    ) -> tuple[Float[Array, "b c"], Variables]: ...


def objective(
    config: MethodConfig, task: Task, runs: Runs, init: Init, views: Mapping[str, MethodView]
) -> tuple[Loss, InRun | None]:
    """Returns the loss that is the sum of a configuration's terms, and what it is in a run.

    Args:
        config: terms, vote and label smoothing.
        task: the dataset's shape.
        runs: how the network runs in training.
        init: of the method.
        views: of the method, which the terms' attacks see.

    Raises:
        ValueError: a term attacks a view that there is not, asks members where there are draws, or
            asks of a layer what cannot be asked of it.
    """
    terms = config.all_terms
    for term in terms:
        asks = (term.gradients, term.quantities, term.one_by_one)
        may = (runs.gradients, runs.quantities, runs.over_members is not None)
        if any(asked and not allowed for asked, allowed in zip(asks, may, strict=True)):
            raise ValueError(
                f"Expected terms={type(term).__name__} to ask of {type(config).__name__} what its "
                "members, or draws, can be asked."
            )
    view = functools.partial(find_view, views)
    for name in (name for term in terms for name in term.views):
        view(name)
    if any(getattr(change, "only", ()) for change in config.all_changes):
        shapes = jax.eval_shape(lambda key: init(key=key), jax.random.key(0))
        check_names(config.all_changes, shapes["params"])
    quantities = tuple(dict.fromkeys(q for term in terms for q in term.quantities))
    asked = Asked(any(term.gradients for term in terms), quantities)

    def loss(variables, batch, *, key, step, epochs: Epochs | None = None):
        if epochs is None:
            epoch = Epoch(jnp.asarray(step) // max(1, task.num_train // batch.image.shape[0]), None)
        else:
            epoch = Epoch(epochs.at(step), epochs.count)
        passed = Pass(
            runs, view, config.vote, variables, batch,
            key=key, asked=asked, epoch=epoch, step=jnp.asarray(step),
            label_smoothing=config.label_smoothing,
        )  # fmt: skip
        values = [term(passed) for term in terms]
        total = functools.reduce(jnp.add, [value.value for value in values])
        return total, (passed.moved, _report(config, passed, values))

    def in_run(epochs: Epochs) -> Loss:
        return functools.partial(loss, epochs=epochs)

    if any(term.tried for term in terms):
        _try(loss, task, init)
    return loss, in_run if any(term.epochs for term in terms) else None


def _try(loss: Loss, task: Task, init: Init) -> None:
    """Traces a loss on the shapes of one image."""
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda key: init(key=key), key)
    image, label = jnp.zeros((1, *task.input_shape)), jnp.zeros(1, jnp.int32)
    batch = Batch(image, label, label == 0, label)
    jax.eval_shape(lambda *given: loss(*given, key=key, step=0), variables, batch)


def _report(config: MethodConfig, passed: Pass, values: Sequence[Value]) -> Report:
    """Returns what the terms report and the vote's accuracy; a name that is taken tells whose."""
    terms = config.all_terms
    report: Report = {}
    for term, value in zip(terms, values, strict=True):
        for name, number in value.report.items():
            report[f"{type(term).__name__}.{name}" if name in report else name] = number
    if passed.has_run or "accuracy" not in report:
        scores = voting.scores(passed.member_logits, config.vote)
        if "accuracy" in report:
            report["distilled_accuracy"] = report["accuracy"]
        report["accuracy"] = metrics.accuracy(scores, passed.labels)
        report |= passed.members.report
    (first, *others) = terms
    alone = isinstance(first, CrossEntropy) and first.weight == 1 and not others
    if alone and not passed.members.report:
        del report["cross_entropy"]  # it is the loss
    return report


def by_member(
    config: MethodConfig,
    task: Task,
    network: nn.Module,
    forward: Forward,
    factors: FeatureFactors | None = None,
) -> Runs:
    """Returns what runs a network in training.

    As a whole; and where something is asked of every member (its gradients, a quantity), each
    by itself, forward and backward once.

    Args:
        config: of the method.
        task: the dataset's shape.
        network: the classifier.
        forward: its pass.
        factors: of the members' features, in training.
    """
    make = functools.partial(config.classifier, task, member=True)
    member, draws = make(), config.samples_in("training")
    ensemble = config.network if isinstance(config.network, EnsembleConfig) else None
    mode = {"train": True, "deterministic": not draws}

    def seen(images: Array, key: Key[Array, ""] | None) -> Array:
        return on_images(config.all_changes, images, TRAINING, key)

    def layer_key(key: Key[Array, ""] | None, *counters: Array) -> Key[Array, ""] | None:
        return rng.stream(rng.required_key(key), "layers", *counters) if draws else None

    def dropped(features: Array, key: Key[Array, ""] | None) -> tuple[Array, Report]:
        assert factors is not None
        return factors(features, rng.stream(rng.required_key(key), "dropout"))

    def whole(variables, images, key) -> Members:
        if factors is None:
            outputs, moved = forward(variables, images, key=key, train=True, deterministic=False)
            return Members(outputs.member_logits, moved)

        def dropping(module, images):
            features, _ = module.features(images, **mode)
            kept, found = dropped(features, key)
            return module.head(features * kept.astype(features.dtype), **mode), found

        one = Member(network, variables, seen(images, key), layer_key(key))
        (logits, found), moved = one.apply(one.images, dropping)
        return Members(logits, moved, report=found)

    def over_members(function, variables, images, *shares, key):
        given = seen(images, key)

        def one(variables, number, *own):
            drawn = layer_key(key, number)
            return function(Member(member, variables, given, drawn, make, config.all_changes), *own)

        if ensemble is None:
            found = one(variables, jnp.asarray(0), *(share[0] for share in shares))
            return jax.tree.map(lambda x: x[None], found)
        numbers = jnp.arange(ensemble.num_members)
        return map_members(one, variables, numbers, *shares, strategy=ensemble.strategy)

    def apart(variables, images, labels, key, asked: Asked) -> Members:
        shares: tuple[Array, ...] = ()
        report: Report = {}
        if factors is not None:

            def features_of(one: Member) -> Array:
                return one.apply(one.images, lambda module, x: module.features(x, **mode))[0][0]

            features = over_members(features_of, variables, images, key=key)
            kept, report = dropped(lax.stop_gradient(features), key)
            shares = (kept,)

        def of_member(one: Member, *kept: Array):
            def run(module, images):
                if not kept:
                    return module(images, **mode).logits
                features, _ = module.features(images, **mode)
                return module.head(features * kept[0].astype(features.dtype), **mode)

            def crossed(images):
                logits, moved = one.apply(seen(images, key), run)
                value = cross_entropy(logits, labels, config.label_smoothing)
                return value, (logits, moved)

            value, (logits, moved), slope = _sloped(crossed, images, asked)
            quantities = tuple(each(one) for each in asked.quantities)
            return moved, (logits, value, slope, quantities)

        moved, arrays = over_members(of_member, variables, images, *shares, key=key)
        moved = jax.tree.map(lambda x: x[0], moved) if ensemble is None else of_ensemble(moved)
        logits, losses, slopes, values = arrays
        quantities = dict(zip(asked.quantities, values, strict=True))
        return Members(logits, moved, losses, slopes, quantities, report)

    def run(variables, images, labels, *, key, asked: Asked) -> Members:
        if not asked.gradients and not asked.quantities and not asked.apart:
            return whole(variables, images, key)
        return apart(variables, images, labels, key, asked)

    # Factors of features are of all members together.
    return Runs(run, over_members=over_members if factors is None else None)


def by_draw(config: MethodConfig, num_draws: int, draw: Draw) -> Runs:
    """Returns what runs draws of a random network in training, which move statistics in turn.

    Args:
        config: of the method.
        num_draws: in a step.
        draw: one of them.
    """

    def run(variables, images, labels, *, key, asked: Asked) -> Members:
        fixed = {name: value for name, value in variables.items() if name != "fitted"}

        def one(statistics, number):
            current = {**fixed, **statistics}

            def crossed(images):
                logits, moved = draw(current, images, key, number)
                value = cross_entropy(logits, labels, config.label_smoothing)
                return value, (logits, moved)

            value, (logits, moved), slope = _sloped(crossed, images, asked)
            return moved, (logits, value, slope)

        statistics = {name: v for name, v in fixed.items() if name == "batch_stats"}
        moved, (logits, losses, slopes) = lax.scan(one, statistics, jnp.arange(num_draws))
        return Members(logits, moved, losses, slopes)

    return Runs(run, quantities=False)


def _sloped(
    crossed: Callable[[Array], tuple[Array, T]], images: Array, asked: Asked
) -> tuple[Array | None, T, Array | None]:
    """Returns a loss, what is beside it, and its gradient at the images: of these what is asked."""
    if not asked.gradients:
        return None, crossed(images)[1], None
    (value, beside), slope = jax.value_and_grad(crossed, has_aux=True)(images)
    return value, beside, slope.reshape(len(slope), -1)
