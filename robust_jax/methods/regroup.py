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
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robust_jax import checks, voting
from robust_jax.attacks import with_gradient_of
from robust_jax.methods import regroup_pass
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.network import network_method
from robust_jax.methods.regroup_fit import Voters, fit_fns
from robust_jax.methods.regroup_responses import (
    affinity,
    centred,
    likeness,
    log_responses,
    soft_count,
)
from robust_jax.models import EnsembleConfig, Mode, default_layers
from robust_jax.models.changes import on_images
from robust_jax.types import Task


@dataclasses.dataclass(frozen=True)
class REGroup(Voters, MethodConfig):
    """A network whose layers, as generative classifiers, decide by Borda count.

    A layer ranks the classes y by `KL(C_y || p)` of its positive, and of its negative responses p,
    C_y the mixture of the class's training images; the Borda counts are summed over layers.

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
        response: "raw" outputs of convolutions and linear layers, or BatchNorm's ("norm").
        temperature: of `soft_borda`.
        temperatures: of further `deployed_T` views. At a high one every pair of classes has a
            gradient, at a low one only those about to change places: an attack that tries each
            takes the part of annealing.
        surrogate_delta: delta in the test responses of the differentiable views; at 1e-20 the
            logarithm's slope explodes where a response vanishes.
        num_layers: k, the last layers that vote; None for the rule of `layer_accuracy`.
        layers: names of the layers to choose from; empty for all of `response`.
        responses: which signs vote, "both", "positive" or "negative" (figure 3).
        delta: added to every response (algorithm 1).
        images_per_class: correctly classified images that `fit` uses of each class; None for all.
        layer_accuracy: least accuracy of a voting layer by itself, where `num_layers` is None.
        selection_images: correctly classified images that this accuracy is measured on.

    Fields beside these are those of `MethodConfig`.

    References:
        Tiwari et al., "REGroup: Rank-aggregating ensemble of generative classifiers for robust
        predictions", arXiv 2006.10679, 2020: algorithm 1; equation 1 (mixtures), 2 and 3
        (divergences), 4 to 7 (Borda counts).

    Example:
        >>> from robust_jax.methods import REGroup
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Batch, Task
        >>> task, network = Task((8, 8, 1), 3, 100), CNNConfig(widths=(8, 12), strides=(1, 2))
        >>> method = REGroup(network, num_layers=2).make(task)
        >>> variables = jax.eval_shape(lambda key: method.init(key=key), jax.random.key(0))
        >>> batch = Batch(jnp.zeros((4, 8, 8, 1)), jnp.arange(4), jnp.ones(4, bool), jnp.arange(4))
        >>> fitted = jax.eval_shape(method.fitted, variables, batch)["fitted"]  # as `fit` leaves it
        >>> {layer: c.shape for layer, c in fitted["positive"].items()}
        {'01.conv2': (1, 3, 12), '02.head': (1, 3, 3)}
    """

    response: Literal["raw", "norm"] = "raw"
    temperature: float = 0.1
    temperatures: tuple[float, ...] = (1.0, 0.01)
    surrogate_delta: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "num_layers", "images_per_class", "selection_images")
        # A channel's share is delta over the sum of the responses, up to some 1e8: in float32.
        checks.at_least(self, 1e-30, "delta", "surrogate_delta")
        checks.above(self, 0, "temperature", "temperatures")
        checks.shares(self, "layer_accuracy")
        if self.response == "norm" and isinstance(self.network, EnsembleConfig):
            raise ValueError("Expected response='norm' to be 'raw' for an ensemble.")
        if self.samples_in("prediction"):
            raise ValueError(
                "Expected changes of REGroup that do not draw at prediction (when=('training',)): "
                "its classifiers are of layers that always return the same."
            )
        if self.num_layers is not None and 0 < len(self.layers) < self.num_layers:
            raise ValueError(
                f"Expected num_layers={self.num_layers} <= {len(self.layers)} named layers."
            )

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: at the first trace, where `num_layers` or `layers` do not fit the network.
        """
        layers = default_layers()
        if self.response == "norm":
            layers = layers._replace(norm=regroup_pass.NormWithResponse)
        network = self.classifier(task, layers)
        method = network_method(network, self, task)

        def run(variables, images):
            seen = on_images(self.all_changes, images, Mode(train=False, deterministic=True), None)
            return regroup_pass.run(network, variables, seen, self.vote)

        def voters(variables, images, *deltas, score=likeness):
            """Returns the score of every class by every voting layer and sign, for each delta."""
            if "fitted" not in variables:
                raise ValueError("Expected variables to hold 'fitted': call fit(...) first.")
            fitted, outputs = variables["fitted"], run(variables, images).layers
            layers = self.voting_layers(fitted[self.signs[0]])

            def scores(delta: float) -> Float[Array, "m b c"]:
                tapped = log_responses(outputs, layers, self.signs, delta)
                found = [score(fitted[s][n], tapped[s][n]) for s in self.signs for n in layers]
                return jnp.concatenate(found)

            return [scores(delta) for delta in deltas]

        def init(*, key):
            variables = dict(method.init(key=key))
            variables.pop("responses", None)  # sown by the pass that made the parameters
            images = jnp.zeros((1, *task.input_shape), jnp.float32)
            self.voting_layers(jax.eval_shape(run, variables, images).layers)
            return variables

        def predict(variables, images, *, key=None):
            del key
            return voting.borda(*voters(variables, images, self.delta))  # equation 7

        def soft_borda(variables, images, *, key=None):
            del key
            (scores,) = voters(variables, images, self.surrogate_delta)
            return centred(soft_count(scores, self.temperature))

        def straight_through(temperature):
            def view(variables, images, *, key=None):
                del key
                exact, smooth = voters(variables, images, self.delta, self.surrogate_delta)
                soft, hard = soft_count(smooth, temperature), voting.borda(exact) / len(exact)
                return with_gradient_of(centred(hard), centred(soft))

            return view

        deployed = straight_through(self.temperature)

        def summed(score, reduce):
            def view(variables, images, *, key=None):
                del key
                (scores,) = voters(variables, images, self.surrogate_delta, score=score)
                return reduce(scores, axis=0)

            return view

        def members(variables, images, *, key=None):
            del key
            return voters(variables, images, self.delta)[0]

        views = {
            **method.views,
            "deployed": deployed,
            "noise_off": deployed,
            **{f"deployed_{t:g}": straight_through(t) for t in self.temperatures},
            "soft_borda": soft_borda,
            "kl_margin": summed(likeness, jnp.sum),
            "feature_match": summed(affinity, jnp.mean),
            "surrogate": method.views["noise_off"],
            "members": members,
        }
        fit, fitted = fit_fns(self, run, num_classes=task.num_classes)
        return method._replace(
            init=init, predict=predict, views=views, fit=fit, fitted=fitted, vote=None
        )
