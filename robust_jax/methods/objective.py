"""How the terms of a loss are asked: of a whole network, member by member, or draw by draw."""

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int, Key

from robust_jax import metrics, rng, voting
from robust_jax.methods.base import Epochs, Forward, Loss, Method, MethodConfig
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.members import map_members, member_classifier, of_ensemble
from robust_jax.methods.runs import Asked, Member, Members, Report, Runs, cross_entropy
from robust_jax.methods.terms import Epoch, Pass
from robust_jax.models import EnsembleConfig, Mode, default_layers
from robust_jax.models.changes import check_names, on_images
from robust_jax.types import Task, Variables

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


def no_loss(variables, batch, /, *, key, step):
    """Stands for the loss of a method that is still being made."""
    raise NotImplementedError


def with_objective(method: Method, config: MethodConfig, runs: Runs, task: Task) -> Method:
    """Returns the method with the loss that is the sum of its configuration's terms.

    Args:
        method: whose views the terms' attacks see.
        config: terms, vote and label smoothing.
        runs: how the network runs in training.
        task: the dataset's shape.

    Raises:
        ValueError: a term attacks a view that there is not, or asks members where there are draws.
    """
    terms = config.all_terms
    for term in terms:
        refused = (
            (term.gradients and not runs.gradients)
            or (term.quantities and not runs.quantities)
            or (term.one_by_one and runs.over_members is None)
        )
        if refused:
            raise ValueError(
                f"Expected terms={type(term).__name__} to ask of {type(config).__name__} what its "
                "members, or draws, can be asked."
            )
    for name in (name for term in terms for name in term.views):
        method.view(name)
    if any(getattr(change, "only", ()) for change in config.all_changes):
        shapes = jax.eval_shape(lambda key: method.init(key=key), jax.random.key(0))
        check_names(config.all_changes, shapes["params"])
    quantities = tuple(dict.fromkeys(q for term in terms for q in term.quantities))
    asked = Asked(any(term.gradients for term in terms), quantities)

    def loss(variables, batch, *, key, step, epochs: Epochs | None = None):
        if epochs is None:
            epoch = jnp.asarray(step) // max(1, task.num_train // batch.image.shape[0])
        else:
            epoch = epochs.at(step)
        passed = Pass(
            runs,
            method.view,
            config.vote,
            variables,
            batch,
            key=key,
            asked=asked,
            epoch=Epoch(epoch, None if epochs is None else epochs.count),
            label_smoothing=config.label_smoothing,
        )
        values = [term(passed) for term in terms]
        report: Report = {}
        for term, value in zip(terms, values, strict=True):
            for name, number in value.report.items():
                taken = name in report  # of another term
                report[f"{type(term).__name__}.{name}" if taken else name] = number
        if passed.has_run or "accuracy" not in report:
            scores = voting.scores(passed.member_logits, config.vote)
            if "accuracy" in report:
                report["distilled_accuracy"] = report["accuracy"]
            report["accuracy"] = metrics.accuracy(scores, batch.label)
            report |= passed.members.report
        (first, *others) = terms
        alone = isinstance(first, CrossEntropy) and first.weight == 1 and not others
        if alone and not passed.members.report:
            del report["cross_entropy"]  # it is the loss
        return functools.reduce(jnp.add, [v.value for v in values]), (passed.moved, report)

    if not any(term.epochs for term in terms):
        return method._replace(loss=loss)

    def in_run(epochs: Epochs) -> Loss:
        return functools.partial(loss, epochs=epochs)

    return method._replace(loss=loss, in_run=in_run)


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
    make = functools.partial(member_classifier, config, task)
    member, draws = make(default_layers()), config.samples_in("training")
    ensemble = config.network if isinstance(config.network, EnsembleConfig) else None

    def layer_key(key: Key[Array, ""] | None, *counters: Array) -> Key[Array, ""] | None:
        return rng.stream(rng.required_key(key), "layers", *counters) if draws else None

    def whole(variables, images, key) -> Members:
        if factors is None:
            outputs, moved = forward(variables, images, key=key, train=True, deterministic=False)
            return Members(outputs.member_logits, moved)
        mode = {"train": True, "deterministic": not draws}
        dropped = factors

        def dropping(module, images):
            features, _ = module.features(images, **mode)
            kept, found = dropped(features, rng.stream(rng.required_key(key), "dropout"))
            return module.head(features * kept.astype(features.dtype), **mode), found

        (logits, found), moved = network.apply(
            variables,
            on_images(config.all_changes, images, TRAINING, key),
            method=dropping,
            rngs=_rngs(layer_key(key)),
            mutable=["batch_stats"],
        )
        return Members(logits, moved, report=found)

    def features_of(variables, seen, key):
        """Returns the members' features, each under its own draws."""
        mode = {"train": True, "deterministic": not draws, "method": "features"}
        if not draws or ensemble is None:
            own = _rngs(layer_key(key, jnp.asarray(0)))
            return network.apply(variables, seen, **mode, rngs=own, mutable=["batch_stats"])[0][0]

        def of_member(variables, number):
            own = _rngs(layer_key(key, number))
            return member.apply(variables, seen, **mode, rngs=own, mutable=["batch_stats"])[0][0]

        numbers = jnp.arange(ensemble.num_members)
        return map_members(of_member, variables, numbers, strategy=ensemble.strategy)

    def apart(variables, images, labels, key, asked: Asked) -> Members:
        seen = on_images(config.all_changes, images, TRAINING, key)
        shares: dict[str, Array] = {}
        found: Report = {}
        num_members = 1 if ensemble is None else ensemble.num_members
        if draws:
            shares["number"] = jnp.arange(num_members)
        if factors is not None:
            features = lax.stop_gradient(features_of(variables, seen, key))
            shares["kept"], found = factors(features, rng.stream(rng.required_key(key), "dropout"))

        def of_member(variables, shares):
            own = layer_key(key, shares["number"]) if draws else None
            mode = {"train": True, "deterministic": not draws}

            def run(module, images):
                if "kept" not in shares:
                    return module(images, **mode).logits
                features, _ = module.features(images, **mode)
                return module.head(features * shares["kept"].astype(features.dtype), **mode)

            def crossed(images):
                given = on_images(config.all_changes, images, TRAINING, key)
                logits, moved = member.apply(
                    variables, given, method=run, rngs=_rngs(own), mutable=["batch_stats"]
                )
                value = cross_entropy(logits, labels, config.label_smoothing)
                return value, (logits, moved)

            value = slope = None
            if asked.gradients:
                (value, (logits, moved)), slope = jax.value_and_grad(crossed, has_aux=True)(images)
                slope = slope.reshape(slope.shape[0], -1)
            else:
                _, (logits, moved) = crossed(images)
            one = Member(member, variables, seen, own, make, config.all_changes)
            return moved, (logits, value, slope, tuple(each(one) for each in asked.quantities))

        if ensemble is None:
            alone = jax.tree.map(lambda share: share[0], shares)
            moved, arrays = of_member(variables, alone)
            arrays = jax.tree.map(lambda x: x[None], arrays)
        else:
            moved, arrays = map_members(of_member, variables, shares, strategy=ensemble.strategy)
            moved = of_ensemble(moved)
        logits, losses, slopes, values = arrays
        quantities = dict(zip(asked.quantities, values, strict=True))
        return Members(logits, moved, losses, slopes, quantities, found)

    def run(variables, images, labels, *, key, asked: Asked) -> Members:
        if not asked.gradients and not asked.quantities and not asked.apart:
            return whole(variables, images, key)
        return apart(variables, images, labels, key, asked)

    def over_members(function, variables, images, *shares, key):
        seen = on_images(config.all_changes, images, TRAINING, key)
        num_members = 1 if ensemble is None else ensemble.num_members

        def one(variables, number, *own):
            drawn = layer_key(key, number)
            return function(Member(member, variables, seen, drawn, make, config.all_changes), *own)

        numbers = jnp.arange(num_members)
        if ensemble is None:
            found = one(variables, numbers[0], *(share[0] for share in shares))
            return jax.tree.map(lambda x: x[None], found)
        return map_members(one, variables, numbers, *shares, strategy=ensemble.strategy)

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

            if not asked.gradients:
                logits, moved = draw(current, images, key, number)
                return moved, (logits, None, None)
            (value, (logits, moved)), slope = jax.value_and_grad(crossed, has_aux=True)(images)
            return moved, (logits, value, slope.reshape(slope.shape[0], -1))

        statistics = {name: v for name, v in fixed.items() if name == "batch_stats"}
        moved, (logits, losses, slopes) = lax.scan(one, statistics, jnp.arange(num_draws))
        return Members(logits, moved, losses, slopes)

    return Runs(run, quantities=False)


def _rngs(key: Key[Array, ""] | None) -> dict[str, Key[Array, ""]] | None:
    return None if key is None else {"sample": key}
