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
from collections.abc import Callable, Iterable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robust_jax import voting
from robust_jax.methods import regroup_pass
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.network import classifier, network_method
from robust_jax.methods.regroup_fit import fit_fns
from robust_jax.methods.regroup_responses import (
    SIGNS,
    Responses,
    affinity,
    divergence,
    log_responses,
    soft_count,
)
from robust_jax.models import EnsembleConfig, Mode, default_layers
from robust_jax.models.base import in_network_order
from robust_jax.models.changes import on_images
from robust_jax.types import Task


@dataclasses.dataclass(frozen=True)
class REGroup(MethodConfig):
    """A network whose layers, as generative classifiers, decide by Borda count.

    `loss` is the plain network's; `fit` makes the 'fitted' collection, {sign: {layer: C}} of the
    voting layers alone, without which `predict` and the views that need it are an error.

    Views:
        deployed: the Borda count as `predict` has it, with the gradient of `soft_borda`
            (straight through), per voter and centred as it is: the rule that decides, made
            attackable. `deployed_T` is the same at a temperature T of `temperatures`.
        noise_off: the same as `deployed`; nothing is random.
        soft_borda: Borda counts whose comparisons are sigmoids,
            sum over other classes y' of sigmoid((KL_y' - KL_y) / temperature), mean over voters,
            less the mean count of a class, (c - 1) / 2.
            Attack it with the loss "margin": counts are no logits.
        kl_margin: minus the sum of the divergences over voters; the loss "margin" on it is the
            KL margin.
        feature_match: likeness of the responses to each class's mixture, mean over voters of
            `affinity`: the loss "margin" leads the features of every voting layer to another
            class's, as Sabour et al., "Adversarial manipulation of deep representations", 2016,
            lead them to a guide image's.
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
        temperatures: of further `deployed_T` views. At a high one every pair of classes has a
            gradient, at a low one only those about to change places: an attack that tries each
            takes the part of annealing.
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
    temperatures: tuple[float, ...] = (1.0, 0.01)
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
        for name in ("delta", "surrogate_delta"):
            # A channel's share is delta over the sum of the responses, up to some 1e8.
            if getattr(self, name) < 1e-30:
                raise ValueError(
                    f"Expected {name}={getattr(self, name)} >= 1e-30, for shares in float32."
                )
        if min(self.temperatures, default=1.0) <= 0:
            raise ValueError(f"Expected temperatures={self.temperatures} > 0.")
        if self.response == "norm" and isinstance(self.network, EnsembleConfig):
            raise ValueError("Expected response='norm' to be 'raw' for an ensemble.")
        if self.samples_in("prediction"):
            raise ValueError(
                "Expected changes of REGroup that do not draw at prediction (when=('training',)): "
                "its classifiers are of layers that always return the same."
            )
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

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: at the first trace, where `num_layers` or `layers` do not fit the network.
        """
        layers = default_layers()
        if self.response == "norm":
            layers = layers._replace(norm=regroup_pass.NormWithResponse)
        network = classifier(self, task, layers)
        method = network_method(network, self, task)

        def run(variables, images):
            seen = on_images(self.all_changes, images, Mode(train=False, deterministic=True), None)
            return regroup_pass.run(network, variables, seen)

        def voters(variables, images, *deltas, score=_likeness):
            """Returns the score of every class by every voting layer and sign, for each delta."""
            if "fitted" not in variables:
                raise ValueError("Expected variables to hold 'fitted': call fit(...) first.")
            layers = run(variables, images).layers
            return [_voters(self, variables["fitted"], layers, delta, score) for delta in deltas]

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
            return _centred(soft_count(scores, self.temperature))

        def straight_through(temperature):
            def view(variables, images, *, key=None):
                del key
                exact, smooth = voters(variables, images, self.delta, self.surrogate_delta)
                soft, hard = soft_count(smooth, temperature), voting.borda(exact) / len(exact)
                return _centred(lax.stop_gradient(hard - soft) + soft)

            return view

        deployed = straight_through(self.temperature)

        views = {
            **method.views,
            "deployed": deployed,
            "noise_off": deployed,
            **{f"deployed_{t:g}": straight_through(t) for t in self.temperatures},
            "soft_borda": soft_borda,
            "kl_margin": lambda variables, images, *, key=None: jnp.sum(
                voters(variables, images, self.surrogate_delta)[0], axis=0
            ),
            "feature_match": lambda variables, images, *, key=None: jnp.mean(
                voters(variables, images, self.surrogate_delta, score=affinity)[0], axis=0
            ),
            "surrogate": method.views["noise_off"],
            "members": lambda variables, images, *, key=None: voters(variables, images, self.delta)[
                0
            ],
        }
        fit, fitted = fit_fns(
            run,
            num_classes=task.num_classes,
            voting_layers=self.voting_layers,
            signs=self.signs,
            delta=self.delta,
            images_per_class=self.images_per_class,
            least_accuracy=self.layer_accuracy if self.num_layers is None else None,
            selection_images=self.selection_images,
        )
        return method._replace(
            init=init,
            predict=predict,
            views=views,
            fit=fit,
            fitted=fitted,
            vote=None,
        )


def _likeness(
    classes: Float[Array, "m c k"], log_response: Float[Array, "m b k"]
) -> Float[Array, "m b c"]:
    """Returns minus the divergence: the larger, the likelier."""
    return -divergence(classes, log_response)


def _centred(counts: Float[Array, "b c"]) -> Float[Array, "b c"]:
    """Returns Borda counts less their mean: those of two classes would look like probabilities."""
    return counts - (counts.shape[-1] - 1) / 2


def _voters(
    config: REGroup,
    fitted: Responses,
    outputs: dict[str, Array],
    delta: float,
    score: Callable[[Array, Array], Array],
) -> Float[Array, "m b c"]:
    """Returns the score of every class by every voting layer and sign."""
    layers = config.voting_layers(fitted[config.signs[0]])
    tapped = log_responses(outputs, layers, config.signs, delta)
    return jnp.concatenate(
        [score(fitted[s][name], tapped[s][name]) for s in config.signs for name in layers]
    )
