"""REGroup: generative classifiers of a trained network's layers, and their Borda count.

Tiwari et al., "REGroup: Rank-aggregating ensemble of generative classifiers for robust
predictions", arXiv 2006.10679, 2020.

Of every voting layer, P_i and N_i are the sums over positions of the positive and of the negative
part of channel i before the nonlinearity, plus delta, each normalised over channels (p, n). `fit`
forms for each class the mixture C of the responses of its correctly classified training images,
weighted by their softmax. At test time a layer ranks the classes by KL(C || p), and by
KL(C || n), and the classes' Borda counts are summed over the last k layers (section 3, algorithm
1). The network is not trained anew.

Where paper and code leave a choice, the first named is the default:

* delta is 1e-20 (code; the paper gives none);
* a layer's response is the raw output of its convolution or linear layer (code, whose networks
  have no BatchNorm), or what BatchNorm makes of it (`response="norm"`; the head has none);
* k = 5 (paper, both ImageNet networks), or all layers whose own count is right on 75 % of
  correctly classified images (`num_layers=None`, the paper's rule; its images are held out, ours
  the first training images that `fit` sees);
* all correctly classified training images, or the first n of each class (`images_per_class`; 50
  in the paper, 1000 in the code's CIFAR-10 example);
* equal divergences rank the lower class first, equal counts predict it (neither says).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from robust_jax import voting
from robust_jax.methods.base import Method, MethodConfig, classifier, network_method
from robust_jax.models import BatchNorm, EnsembleConfig, default_layers
from robust_jax.models.base import Taps
from robust_jax.types import Batch, Task, Variables

Responses = dict[str, dict[str, Float[Array, "_ _ _"]]]
"""By sign and layer, logarithms of p or n [m b k]; fitted, the class mixtures C [m c k]."""

SIGNS = {"positive": 1.0, "negative": -1.0}


class NormWithResponse(BatchNorm):
    """BatchNorm that also sows its output into "responses"."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "*b k"]:
        """Returns the normalised activations."""
        y = super().__call__(x, train=train, deterministic=deterministic)
        self.sow("responses", "output", y)
        return y


@dataclasses.dataclass(frozen=True)
class REGroup(MethodConfig):
    """A network whose layers, as generative classifiers, decide by Borda count.

    `loss` is the plain network's; `fit` makes the 'fitted' collection, {sign: {layer: C}} of the
    voting layers alone, without which `predict` and the views that need it are an error.

    Views:
        deployed: the Borda count as `predict` has it, with the gradient of `soft_borda`
            (straight through), per voter: the rule that decides, made attackable.
        noise_off: the same; nothing is random.
        soft_borda: Borda counts whose comparisons are sigmoids,
            sum over other classes y' of sigmoid((KL_y' - KL_y) / temperature), mean over voters.
            Attack it with the loss "margin": counts are no logits.
        kl_margin: minus the sum of the divergences over voters; the loss "margin" on it is the
            KL margin.
        surrogate: logits of the softmax network, which the paper's attacks see.
        train: the softmax network with batch statistics.
        members: the voters' scores, minus the divergence of each layer and sign [m b c].
        taps: the network's.

    Attributes:
        num_layers: k, the last layers that vote; None for the rule of `layer_accuracy`.
        layers: names of the layers to choose from; empty for all of `response`.
        responses: which signs vote (figure 3).
        response: "raw" outputs of convolutions and linear layers, or BatchNorm's ("norm").
        delta: added to every response.
        images_per_class: correctly classified images that `fit` uses of each class; None for all.
        layer_accuracy: least accuracy of a voting layer by itself, where num_layers is None.
        selection_images: correctly classified images that this accuracy is measured on.
        temperature: of `soft_borda`.
        surrogate_delta: delta in the test responses of the differentiable views; at 1e-20 the
            logarithm's slope explodes where a response vanishes.
    """

    num_layers: int | None = 5
    layers: tuple[str, ...] = ()
    responses: Literal["both", "positive", "negative"] = "both"
    response: Literal["raw", "norm"] = "raw"
    delta: float = 1e-20
    images_per_class: int | None = None
    layer_accuracy: float = 0.75
    selection_images: int = 10_000
    temperature: float = 0.1
    surrogate_delta: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_layers", "images_per_class", "selection_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Expected {name}={value} >= 1.")
        for name in ("delta", "temperature", "surrogate_delta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected {name}={getattr(self, name)} > 0.")
        if self.response == "norm" and isinstance(self.network, EnsembleConfig):
            raise ValueError("Expected response='norm' to be 'raw' for an ensemble.")
        if not 0 <= self.layer_accuracy <= 1:
            raise ValueError(f"Expected 0 <= layer_accuracy={self.layer_accuracy} <= 1.")
        if self.num_layers is not None and 0 < len(self.layers) < self.num_layers:
            raise ValueError(
                f"Expected num_layers={self.num_layers} <= {len(self.layers)} named layers."
            )

    @property
    def signs(self) -> tuple[str, ...]:
        """The responses that vote."""
        return tuple(SIGNS) if self.responses == "both" else (self.responses,)

    def voting_layers(self, found: Iterable[str]) -> tuple[str, ...]:
        """Returns the layers that may vote, in network order.

        Raises:
            ValueError: a named layer does not exist, or k is larger than their number.
        """
        names = tuple(found)
        for layer in self.layers:
            if layer not in names:
                raise ValueError(f"Expected layer {layer!r} to be one of {list(names)}.")
        chosen = tuple(name for name in names if name in self.layers or not self.layers)
        if self.num_layers is None:
            return chosen
        if self.num_layers > len(chosen):
            raise ValueError(f"Expected num_layers={self.num_layers} <= {len(chosen)} layers.")
        return chosen[-self.num_layers :]

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: at the first trace, where `num_layers` or `layers` do not fit the network.
        """
        layers = default_layers()
        if self.response == "norm":
            layers = layers._replace(norm=NormWithResponse)
        network = classifier(self, task, layers)
        method = network_method(network, self, task)

        def run(variables, images):
            return _run(network, {k: v for k, v in variables.items() if k != "fitted"}, images)

        def voters(variables, images, *deltas):
            """Returns minus the divergence of every voting layer and sign, for each delta."""
            if "fitted" not in variables:
                raise ValueError("Expected variables to hold 'fitted': call fit(...) first.")
            layers = run(variables, images).layers
            return [_voters(self, variables["fitted"], layers, delta) for delta in deltas]

        def init(*, key):
            variables = dict(method.init(key=key))
            variables.pop("responses", None)  # sown by the pass that made the parameters
            images = jnp.zeros((1, *task.input_shape), jnp.float32)
            self.voting_layers(jax.eval_shape(run, variables, images).layers)
            return variables

        def predict(variables, images, *, key=None):
            del key
            return voting.borda(*voters(variables, images, self.delta))

        def soft_borda(variables, images, *, key=None):
            del key
            (scores,) = voters(variables, images, self.surrogate_delta)
            return soft_count(scores, self.temperature)

        def deployed(variables, images, *, key=None):
            del key
            exact, smooth = voters(variables, images, self.delta, self.surrogate_delta)
            soft, hard = soft_count(smooth, self.temperature), voting.borda(exact) / len(exact)
            return lax.stop_gradient(hard - soft) + soft

        views = {
            **method.views,
            "deployed": deployed,
            "noise_off": deployed,
            "soft_borda": soft_borda,
            "kl_margin": lambda variables, images, *, key=None: jnp.sum(
                voters(variables, images, self.surrogate_delta)[0], axis=0
            ),
            "surrogate": method.views["noise_off"],
            "members": lambda variables, images, *, key=None: voters(variables, images, self.delta)[
                0
            ],
        }
        return method._replace(
            init=init, predict=predict, views=views, fit=_fit_fn(self, run, task.num_classes)
        )


class Pass(NamedTuple):
    """A forward pass of the network.

    Attributes:
        logits: of the network's vote over its members.
        layers: outputs of the layers that may vote, in network order.
    """

    logits: Float[Array, "b c"]
    layers: dict[str, Array]


def _run(network: nn.Module, variables: Variables, images: Float[Array, "b h w k"]) -> Pass:
    outputs: Any
    outputs, sown = network.apply(
        variables, images, train=False, deterministic=True, mutable=["responses"]
    )
    taps = {name: tap for name, tap in outputs.taps.items() if not name.endswith(".pre_act")}
    if "responses" in sown:
        found = Taps()
        # The order of the calls: apply keeps it.
        for path, (value,) in _sown(sown["responses"]["backbone"]):
            found.add(path, value)
        found.add("head", outputs.taps[max(taps)])
        taps = dict(found)
    return Pass(outputs.logits, dict(sorted(taps.items())))


def _voters(
    config: REGroup, fitted: Responses, outputs: dict[str, Array], delta: float
) -> Float[Array, "m b c"]:
    """Returns minus the divergence of every voting layer and sign."""
    layers = config.voting_layers(sorted(fitted[config.signs[0]]))
    tapped = log_responses(outputs, layers, config.signs, delta)
    return jnp.concatenate(
        [-divergence(fitted[s][name], tapped[s][name]) for s in config.signs for name in layers]
    )


def _sown(tree: Any, path: tuple[str, ...] = ()) -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if name == "output":
            yield ".".join(path), value
        else:
            yield from _sown(value, (*path, name))


def log_responses(
    outputs: dict[str, Array],
    layers: Iterable[str],
    signs: Iterable[str],
    delta: float,
) -> Responses:
    """Returns log p and log n of layers: by sign and layer [m b k], one member if there is no axis.

    Args:
        outputs: before the nonlinearity, [b h w k] or [b k], of an ensemble with a member axis.
        layers: which.
        signs: "positive" for p, "negative" for n.
        delta: added to the sums over positions.
    """

    def log_response(output: Array, sign: float) -> Float[Array, "m b k"]:
        output = output[None] if output.ndim % 2 == 0 else output
        part = nn.relu(sign * output.astype(jnp.float32))
        total = (jnp.sum(part, axis=(2, 3)) if part.ndim == 5 else part) + delta
        return jnp.log(total) - jnp.log(jnp.sum(total, axis=-1, keepdims=True))

    return {
        sign: {layer: log_response(outputs[layer], SIGNS[sign]) for layer in layers}
        for sign in signs
    }


def divergence(
    classes: Float[Array, "m c k"], log_response: Float[Array, "m b k"]
) -> Float[Array, "m b c"]:
    """Returns KL(C_y || p) of every class y: one matrix product, the entropy apart."""
    negative_entropy = jnp.sum(classes * jnp.log(classes), axis=-1)
    cross = jnp.einsum("mck,mbk->mbc", classes, log_response, precision="highest")
    return negative_entropy[:, None, :] - cross


def soft_count(scores: Float[Array, "m b c"], temperature: float) -> Float[Array, "b c"]:
    """Returns the mean over voters of sum_{y' != y} sigmoid((s_y - s_y') / temperature).

    The Borda count per voter in the limit of temperature 0. Voters are counted one by one and
    again in the backward pass, so the memory is that of one voter's [b c c].
    """

    @jax.checkpoint
    def count(total, one):
        gaps = (one[:, :, None] - one[:, None, :]) / temperature
        # A class against itself is half a point.
        return total + jnp.sum(nn.sigmoid(gaps), axis=-1) - 0.5, None

    total, _ = lax.scan(count, jnp.zeros_like(scores[0]), scores)
    return total / len(scores)


class Mixtures(NamedTuple):
    """What one pass over the training images accumulates.

    Attributes:
        sums: of the responses times the softmax, by sign and layer, [m c k].
        weights: sum of the softmax, by class.
        counts: correctly classified images used, by class.
    """

    sums: Responses
    weights: Float[Array, " c"]
    counts: Int[Array, " c"]


def _fit_fn(
    config: REGroup, run: Callable[[Variables, Array], Pass], num_classes: int
) -> Callable[..., Variables]:
    """Returns `fit`: one pass over the batches, each seen once by one compiled step."""

    def start(variables: Variables, batch: Batch) -> Mixtures:
        layers = run(variables, batch.image).layers
        tapped = log_responses(layers, config.voting_layers(layers), config.signs, config.delta)

        def zeros(value: Array) -> Array:
            return jnp.zeros((value.shape[0], num_classes, value.shape[2]), value.dtype)

        nothing = jnp.zeros(num_classes)
        return Mixtures(jax.tree.map(zeros, tapped), nothing, nothing.astype(jnp.int32))

    @jax.jit
    def step(
        variables: Variables, mixtures: Mixtures, batch: Batch
    ) -> tuple[Mixtures, tuple[Responses, Bool[Array, " b"]] | None]:
        logits, layers = run(variables, batch.image)
        tapped = log_responses(layers, mixtures.sums[config.signs[0]], config.signs, config.delta)
        used = batch.mask & (jnp.argmax(logits, axis=-1) == batch.label)
        member = jax.nn.one_hot(batch.label, num_classes, dtype=bool) & used[:, None]
        if config.images_per_class is not None:
            numbers = mixtures.counts[None, :] + jnp.cumsum(member, axis=0, dtype=jnp.int32)
            member &= numbers <= config.images_per_class
        probability = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        weights = jnp.where(member, probability, 0.0)

        def add(total: Array, log_response: Array) -> Array:
            response = jnp.exp(log_response)
            return total + jnp.einsum("bc,mbk->mck", weights, response, precision="highest")

        moved = Mixtures(
            jax.tree.map(add, mixtures.sums, tapped),
            mixtures.weights + jnp.sum(weights, axis=0),
            mixtures.counts + jnp.sum(member, axis=0, dtype=jnp.int32),
        )
        return moved, (tapped, used) if config.num_layers is None else None

    @jax.jit
    def right(fitted: Responses, tapped: Responses, used: Bool[Array, " b"], labels: Array):
        """Returns how many images each layer alone, over its signs, decides rightly."""

        def count(layer: str) -> Array:
            scores = [-divergence(fitted[sign][layer], tapped[sign][layer]) for sign in fitted]
            decision = jnp.argmax(voting.borda(jnp.concatenate(scores)), axis=-1)
            return jnp.sum(used & (decision == labels))

        return {layer: count(layer) for layer in fitted[config.signs[0]]}

    def fit(variables: Variables, batches: Iterable[Batch], *, key: Any) -> Variables:
        del key
        network = {name: value for name, value in variables.items() if name != "fitted"}
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            raise ValueError("Expected batches to hold at least one batch.")
        mixtures: Mixtures = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(start, network, first)
        )
        kept, num_kept = [], 0
        for batch in itertools.chain([first], stream):
            mixtures, selection = step(network, mixtures, batch)
            if selection is not None and num_kept < config.selection_images:
                kept.append((*selection, batch.label))
                num_kept += int(jnp.sum(selection[1]))
            if config.images_per_class is not None and bool(
                jnp.all(mixtures.counts >= config.images_per_class)
            ):
                break
        counts = jax.device_get(mixtures.counts)
        if counts.min() < 1:
            raise ValueError(
                f"Expected class {int(counts.argmin())} to have at least one training image that "
                "the network classifies correctly."
            )
        fitted = jax.tree.map(lambda s: s / mixtures.weights[None, :, None], mixtures.sums)
        if config.num_layers is None:
            counted = [right(fitted, *one) for one in kept]
            accuracy = {
                layer: sum(int(each[layer]) for each in counted) / num_kept for layer in counted[0]
            }
            chosen = choose(accuracy, config.layer_accuracy)
            fitted = {
                sign: {layer: found[layer] for layer in chosen} for sign, found in fitted.items()
            }
        return {**network, "fitted": fitted}

    return fit


def choose(accuracy: dict[str, float], least: float) -> tuple[str, ...]:
    """Returns the layers of at least this accuracy, in network order.

    Args:
        accuracy: of each layer alone.
        least: accuracy that a voting layer has.

    Raises:
        ValueError: no layer has it.
    """
    chosen = tuple(layer for layer in sorted(accuracy) if accuracy[layer] >= least)
    if not chosen:
        best = max(accuracy.values())
        raise ValueError(
            f"Expected layer_accuracy={least} <= {best:.3f}, the best layer's accuracy."
        )
    return chosen
