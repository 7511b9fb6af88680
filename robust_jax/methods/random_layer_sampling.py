"""Random layer sampling (RLS): a network whose every layer is drawn from M trained ones.

Lee et al., "Robust ensemble model training via random layer sampling against adversarial attack",
BMVC 2020.

Every unit (a convolution or linear layer with its own BatchNorm) has M stacked weights; a sampled
model takes one of them per unit, independently, with probabilities mu (equations 1 to 4): M^L
models in the memory of M. A training step draws K models and minimises the loss of the mean of
their predictions over all weights at once (group optimisation); a prediction is the mean of N
fresh draws.

Where the paper leaves a choice, the first named is the default:

* mu is uniform (the paper gives none);
* one draw serves the whole batch, so that BatchNorm sees one network;
* a unit is a convolution with the BatchNorm of the same name (conv1 and norm1), which the paper
  does not mention, or a whole residual block (`unit="block"`);
* the K draws of a step move the running statistics one after another, each those of its units;
* loss: cross-entropy of the mean softmax; "mse_of_mean" is the squared error of the mean softmax,
  which section 3.2 argues with (equations 6 to 8); "mean_cross_entropy" has no diversity pressure;
* running statistics are averages over random layers upstream that forget; with
  `statistics="reestimated"` they are plain means over the batches and draws of a pass after
  training (`batch_statistics.py`).
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robust_jax import checks, rng, voting
from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.batch_statistics import check_statistics, fitted, reestimate
from robust_jax.methods.deployment import Deployment
from robust_jax.methods.draws import rows_apart
from robust_jax.methods.objective import by_draw, objective
from robust_jax.methods.runs import Asked, Runs, cross_entropy, training_view
from robust_jax.methods.sampled_layers import Unit
from robust_jax.methods.sampled_models import SampledModels
from robust_jax.methods.terms import Pass, Term, Value
from robust_jax.models import Phase
from robust_jax.models.ensemble import check_single
from robust_jax.types import Task

Kind = Literal["cross_entropy_of_mean", "mse_of_mean", "mean_cross_entropy"]


def group_loss(
    logits: Float[Array, "s b c"],
    labels: Int[Array, " b"],
    kind: Kind,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Returns the loss of the K sampled models of a step.

    Args:
        logits: of each model.
        labels: classes.
        kind: "cross_entropy_of_mean" of the mean softmax F, "mse_of_mean" the mean over examples
            of |F - one-hot|^2 (equation 7), "mean_cross_entropy" of the models by themselves.
        label_smoothing: share of the target spread over all classes.

    References:
        Lee et al., 2020, section 3.2, equations 6 to 8.
    """
    if kind == "mean_cross_entropy":
        losses = jax.vmap(lambda one: cross_entropy(one, labels, label_smoothing))(logits)
        return jnp.mean(losses)
    log_mean = voting.mean_probability(logits)
    if kind == "cross_entropy_of_mean":
        # The log mean probability is normalised: as logits it has the same softmax.
        return cross_entropy(log_mean, labels, label_smoothing)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
    return jnp.mean(jnp.sum(jnp.square(jnp.exp(log_mean) - targets), axis=-1))


@dataclasses.dataclass(frozen=True)
class GroupLoss(Term):
    """The loss of the K models of a step: `group_loss`, of a kind."""

    kind: Kind = "cross_entropy_of_mean"

    def __call__(self, passed: Pass) -> Value:
        """Returns the loss."""
        logits = passed.member_logits
        return Value(group_loss(logits, passed.labels, self.kind, passed.label_smoothing))


@dataclasses.dataclass(frozen=True)
class RandomLayerSampling(MethodConfig):
    """A network drawn layer by layer from M trained weights, averaged over draws.

    RLS: M^L models in the memory of M. The loss is that of the mean of K drawn models.

    Draws belong to a call, not to an example: all images of a call see the same models. Where
    calls with a key each are mapped (`jax.vmap`, as judges do), the images of each have their own;
    with changes that draw at prediction at the memory of a network for each. Such changes draw in
    `frozen_S` too, the same whatever the key; in `members` and `noise_off` they do not.

    All views are log mean probabilities where several models are averaged.

    Views:
        deployed: the mean of `num_draws` fresh draws, as `predict` has it.
        fresh: one fresh draw at every call (with `eot_samples` an honest attack).
        frozen_S for S in `frozen`: the mean of S draws that never change, whatever the key: the
            paper's attackers (S = 1 in tables 1 and 2, 1 to 15 in table 4).
        noise_off: the mean of the M pure members, member m having the m-th weights everywhere.
        members: logits of the pure members [m b c].
        train: the mean of the K draws of a training step, with batch statistics.
        taps: of one fresh draw; none of a frozen deployment.

    Attributes:
        num_choices: M, weights per unit.
        num_samples: K, models drawn in a training step.
        num_draws: N, models drawn for a prediction, where `deployment` is None.
        mu: probabilities of the M weights; empty for uniform.
        unit: what is drawn together: "conv" (a convolution or linear layer and its BatchNorm) or
            "block" (all of a residual block).
        loss: "cross_entropy_of_mean", "mse_of_mean" or "mean_cross_entropy".
        statistics: running statistics of the deployed network: those of "training", or
            "reestimated" by `fit` (before it, those of training: validation happens then).
        frozen: numbers of models of the `frozen_S` views.
        frozen_seed: root of their draws.

    Fields beside these are those of `MethodConfig`.

    Raises:
        ValueError: numbers below 1, mu that are no probabilities of the M weights, another vote
            than the mean probability, or an ensemble.

    References:
        Lee et al., "Robust ensemble model training via random layer sampling against adversarial
        attack", BMVC 2020, equations 1 to 4; the loss: section 3.2.

    Example:
        >>> from robust_jax.methods import RandomLayerSampling
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Task
        >>> network = CNNConfig(widths=(4, 8), strides=(2, 2))
        >>> config = RandomLayerSampling(network, num_choices=2, num_samples=3, num_draws=10)
        >>> method = config.make(Task((8, 8, 1), num_classes=10, num_train=1000))
        >>> sorted(method.views)
        ['deployed', 'fresh', 'frozen_1', 'frozen_10', 'frozen_15', 'frozen_5', 'members',
        'noise_off', 'train']
        >>> shapes = jax.eval_shape(lambda key: method.init(key=key), jax.random.key(0))
        >>> {leaf.shape[0] for leaf in jax.tree.leaves(shapes["params"])}  # two weights a unit
        {2}
    """

    num_choices: int = 2
    num_samples: int = 3
    num_draws: int = 10
    mu: tuple[float, ...] = ()
    unit: Unit = "conv"
    loss: Kind = "cross_entropy_of_mean"
    statistics: Literal["training", "reestimated"] = "training"
    frozen: tuple[int, ...] = (1, 5, 10, 15)
    frozen_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "num_choices", "num_samples", "num_draws", "frozen")
        if self.vote != "mean_probability":
            raise ValueError(f"Expected vote={self.vote!r} to be 'mean_probability', as draws are.")
        checks.at_least(self, 0, "mu")
        if self.mu and (len(self.mu) != self.num_choices or abs(sum(self.mu) - 1) > 1e-6):
            raise ValueError(
                f"Expected mu={self.mu} to have num_choices={self.num_choices} entries and sum 1."
            )
        check_single(self.network)
        if any(getattr(change, "order", "") == "conv_norm_pool" for change in self.all_changes):
            # Its convolutions have no normalisation of their own to put before the pool.
            raise ValueError(
                "Expected order='conv_norm_pool' to be 'conv_pool' in RandomLayerSampling."
            )

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the group's loss."""
        return (GroupLoss(self.loss),)

    @property
    def own_deployment(self) -> Deployment:
        """Returns the mean of fresh draws."""
        return Deployment(self.num_draws)

    def samples_in(self, phase: Phase) -> bool:
        """Returns True: layers are drawn."""
        return True

    def models(self, task: Task) -> SampledModels:
        """Returns what can be drawn of the network for a dataset."""
        network = functools.partial(self.classifier, task)
        return SampledModels(network, self.num_choices, self.mu, self.unit, self.all_changes)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        models, deployment = self.models(task), self.deployed_by or self.own_deployment
        random, noisy = deployment.draws == "fresh", super().samples_in("prediction")

        def init(*, key):
            return models.init(key, task.input_shape)

        def together(variables, images, key):
            return models.mean(variables, images, key, deployment.num_draws)

        # Noise has one key for all rows.
        of_rows = together if noisy else rows_apart(together)

        def drawn(variables, images, *, key=None):
            return of_rows(variables, images, rng.required_key(key))

        def still(size: int, seed: int, apart: bool = False):
            def view(variables, images, *, key=None):
                del key
                root = rng.stream(jax.random.key(seed), "frozen", size)
                found = functools.partial(models.mean, variables, key=root, num_draws=size)
                # Noise belongs to rows, an image's decision to none.
                return jax.vmap(lambda x: found(x[None])[0])(images) if apart else found(images)

            return view

        def members(variables, images, *, key=None):
            return models.pure(variables, images)

        def noise_off(variables, images, *, key=None):
            return voting.mean_probability(models.pure(variables, images))

        def fresh(variables, images, *, key):
            return models.one(variables, images, rng.required_key(key)).logits

        def taps(variables, images, *, key):
            return models.one(variables, images, rng.required_key(key)).taps

        def runs(averaging: bool = False) -> Runs:
            def draw(variables, images, key, number):
                root = rng.required_key(key)
                outputs, moved = models.run(
                    models.draw(root, number), variables, images, train=True,
                    key=rng.stream(root, "noise", number), averaging=averaging,
                )  # fmt: skip
                return outputs.logits, moved

            return by_draw(self, self.num_samples, draw)

        deployed = drawn if random else still(deployment.num_draws, deployment.seed, noisy)
        views = {
            "deployed": deployed,
            "fresh": fresh,
            **{f"frozen_{size}": still(size, self.frozen_seed) for size in self.frozen},
            "noise_off": noise_off,
            "members": members,
            "train": training_view(runs(), self.vote),
        }
        loss, in_run = objective(self, task, runs(), init, {**views, "decision": deployed})
        method = Method(init, loss, deployed, views, random, in_run=in_run)
        if random:
            method = method._replace(draws_per="call", taps=taps)
        if self.statistics == "training":
            return method
        shapes = jax.eval_shape(lambda key: init(key=key), jax.random.key(0))
        check_statistics(shapes, "statistics")

        def gather(variables, images, key):
            labels = jnp.zeros(len(images), jnp.int32)
            return runs(averaging=True).run(variables, images, labels, key=key, asked=Asked()).moved

        def fit(variables, batches, *, key):
            used = jnp.asarray(self.mu or (1.0,) * self.num_choices) > 0
            return reestimate(gather, variables, batches, key=key, used=used)

        return method._replace(fit=fit, fitted=fitted)
