"""Fitting REGroup's generative classifiers: one pass over the training images (algorithm 1)."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from robust_jax import metrics, voting
from robust_jax.methods.base import Fit
from robust_jax.methods.regroup_pass import Pass
from robust_jax.methods.regroup_responses import SIGNS, Responses, divergence, log_responses
from robust_jax.models.base import in_network_order
from robust_jax.types import Batch, Variables


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


@dataclasses.dataclass(frozen=True)
class Voters:
    """Which layers vote, and of which images their classes are made.

    Attributes:
        num_layers: k, the last layers that vote; None for the rule of `layer_accuracy`.
        layers: names of the layers to choose from; empty for all of `response`.
        responses: which signs vote (figure 3).
        delta: added to every response.
        images_per_class: correctly classified images that `fit` uses of each class; None for all.
        layer_accuracy: least accuracy of a voting layer by itself, where num_layers is None.
        selection_images: correctly classified images that this accuracy is measured on.
    """

    num_layers: int | None = 5
    layers: tuple[str, ...] = ()
    responses: Literal["both", "positive", "negative"] = "both"
    delta: float = 1e-20
    images_per_class: int | None = None
    layer_accuracy: float = 0.75
    selection_images: int = 10_000

    @property
    def signs(self) -> tuple[str, ...]:
        """The responses that vote."""
        return tuple(SIGNS) if self.responses == "both" else (self.responses,)

    def voting_layers(self, found: Iterable[str]) -> tuple[str, ...]:
        """Returns the layers that may vote, in network order.

        Raises:
            ValueError: a named layer does not exist, or k is larger than their number.
        """
        names = in_network_order(found)
        for layer in self.layers:
            if layer not in names:
                raise ValueError(f"Expected layer {layer!r} to be one of {list(names)}.")
        chosen = tuple(name for name in names if name in self.layers or not self.layers)
        if self.num_layers is None:
            return chosen
        if self.num_layers > len(chosen):
            raise ValueError(f"Expected num_layers={self.num_layers} <= {len(chosen)} layers.")
        return chosen[-self.num_layers :]


def fit_fns(
    voters: Voters, run: Callable[[Variables, Array], Pass], *, num_classes: int
) -> tuple[Fit, Callable[[Variables, Batch], Variables]]:
    """Returns `fit` of a `REGroup` and its `fitted`: of all layers that a fit can choose.

    A fit is one pass, each batch seen once by one compiled step.

    Args:
        voters: which, and of which images.
        run: forward pass.
        num_classes: c.
    """
    signs, delta, images_per_class = voters.signs, voters.delta, voters.images_per_class
    least_accuracy = voters.layer_accuracy if voters.num_layers is None else None

    def start(variables: Variables, batch: Batch) -> Mixtures:
        """Returns nothing yet, of every layer that may vote."""
        layers = run(variables, batch.image).layers
        tapped = log_responses(layers, voters.voting_layers(layers), signs, delta)

        def zeros(value: Array) -> Array:
            return jnp.zeros((value.shape[0], num_classes, value.shape[2]), value.dtype)

        nothing = jnp.zeros(num_classes)
        return Mixtures(jax.tree.map(zeros, tapped), nothing, nothing.astype(jnp.int32))

    @jax.jit
    def step(
        variables: Variables, mixtures: Mixtures, batch: Batch
    ) -> tuple[Mixtures, tuple[Responses, Bool[Array, " b"]] | None]:
        logits, layers = run(variables, batch.image)
        tapped = log_responses(layers, mixtures.sums[signs[0]], signs, delta)
        used = batch.mask & metrics.right(logits, batch.label)
        member = jax.nn.one_hot(batch.label, num_classes, dtype=bool) & used[:, None]
        if images_per_class is not None:
            numbers = mixtures.counts[None, :] + jnp.cumsum(member, axis=0, dtype=jnp.int32)
            member &= numbers <= images_per_class
        probability = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        weights = jnp.where(member, probability, 0.0)

        def add(total: Array, log_response: Array) -> Array:
            # Times no weight what is no number is none.
            response = jnp.where(used[None, :, None], jnp.exp(log_response), 0)
            return total + jnp.einsum("bc,mbk->mck", weights, response, precision="highest")

        moved = Mixtures(
            jax.tree.map(add, mixtures.sums, tapped),
            mixtures.weights + jnp.sum(weights, axis=0),
            mixtures.counts + jnp.sum(member, axis=0, dtype=jnp.int32),
        )
        return moved, (tapped, used) if least_accuracy is not None else None

    @jax.jit
    def right(fitted: Responses, tapped: Responses, used: Bool[Array, " b"], labels: Array):
        """Returns how many images each layer alone, over its signs, decides rightly."""

        def count(layer: str) -> Array:
            scores = [-divergence(fitted[sign][layer], tapped[sign][layer]) for sign in fitted]
            return jnp.sum(used & metrics.right(voting.borda(jnp.concatenate(scores)), labels))

        return {layer: count(layer) for layer in fitted[signs[0]]}

    def fit(variables, batches, *, key):
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
            if selection is not None and num_kept < voters.selection_images:
                kept.append((*selection, batch.label))
                num_kept += int(jnp.sum(selection[1]))
            if images_per_class is not None and bool(jnp.all(mixtures.counts >= images_per_class)):
                break
        counts = jax.device_get(mixtures.counts)
        if counts.min() < 1:
            raise ValueError(
                f"Expected class {int(counts.argmin())} to have at least one training image that "
                "the network classifies correctly."
            )
        # Equation 1: the weights lambda_j, the softmax's, add up to one.
        fitted = jax.tree.map(lambda s: s / mixtures.weights[None, :, None], mixtures.sums)
        if least_accuracy is not None:
            counted = [right(fitted, *one) for one in kept]
            accuracy = {
                layer: sum(int(each[layer]) for each in counted) / num_kept for layer in counted[0]
            }
            chosen = choose(accuracy, least_accuracy)
            fitted = {
                sign: {layer: found[layer] for layer in chosen} for sign, found in fitted.items()
            }
        return {**network, "fitted": fitted}

    def fitted_shapes(variables: Variables, batch: Batch) -> Variables:
        return {**variables, "fitted": start(variables, batch).sums}

    return fit, fitted_shapes


def choose(accuracy: dict[str, float], least: float) -> tuple[str, ...]:
    """Returns the layers of at least this accuracy, in network order.

    Args:
        accuracy: of each layer alone.
        least: accuracy that a voting layer has.

    Raises:
        ValueError: no layer has it.
    """
    chosen = tuple(layer for layer in in_network_order(accuracy) if accuracy[layer] >= least)
    if not chosen:
        best = max(accuracy.values())
        raise ValueError(
            f"Expected layer_accuracy={least} <= {best:.3f}, the best layer's accuracy."
        )
    return chosen
