"""DVERGE: members trained on images that hold another member's non-robust features.

Yang et al., "DVERGE: Diversifying Vulnerabilities for Enhanced Robust Generation of Ensembles",
NeurIPS 2020.

Member i's distilled image of a source (x, y) and a target x_t is

    x'_i = argmin over |x' - x|_inf <= eps of MSE(f_i^l(x'), f_i^l(x_t))

with f_i^l what goes into member i's l-th activation function, or its logits for the last l. Every
member j minimises sum_{i != j} CE(f_j(x'_i), y): it learns to ignore what fools the others.

Sources of the defaults: the authors' code. eps .07, 10 steps of .007 along the sign of the
gradient, normalised to unit L1 norm and added up with momentum 1, no random start; l drawn once an
epoch, the same for all members; features before the activation function; distillation with batch
statistics. A ResNet-20 has 20 layers. The code starts from a trained plain ensemble
(`--training.init-from`); from scratch is its option.

Deviations: targets are the batch's own images, each the source of its neighbour, not a second
independent batch; only the passes that train move BatchNorm's statistics, in the code those of the
distillation do too; features of the targets are computed once, not at every step; all members take
one step together, which is the same, since they share no weight.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from robust_jax import checks, metrics, rng
from robust_jax.methods.layer_calls import noting_calls
from robust_jax.methods.network import EnsembleMethod, forward_fn
from robust_jax.methods.runs import Member, cross_entropy
from robust_jax.methods.terms import Pass, Term, Value
from robust_jax.models import Activation
from robust_jax.models.ensemble import of_ensemble
from robust_jax.types import Variables


def pre_activations(member: Member, images: Float[Array, "b h w k"]) -> list[Array]:
    """Returns what each activation function of a member is given, in order, and the logits last.

    Args:
        member: which draws nothing here, and whose running statistics stay as they are.
        images: normalised by the batch's statistics.
    """
    found: list[Array] = []
    with noting_calls(Activation, lambda layer, given, returned: found.append(given)):
        outputs, _ = forward_fn(member.network, member.changes)(
            member.variables, images, key=None, train=True, deterministic=True
        )
    return [*found, outputs.logits]


def distill(
    member: Member,
    images: Float[Array, "b h w k"],
    targets: Float[Array, "b h w k"],
    layer: Int[Array, ""],
    how: "_Symbols",
) -> Float[Array, "b h w k"]:
    """Returns images near the given ones whose features are those of the targets, for one member.

    Only the part of the network up to the layer runs, and only its gradient at the images.

    Args:
        member: whose features they are.
        images: the sources.
        targets: whose features to take.
        layer: number of the features, from 0; may be traced.
        how: radius, steps and momentum.
    """

    @jax.jit  # traced once for all layers
    def features(images: Array) -> list[Array]:
        return pre_activations(member, images)

    wanted = features(targets)

    def slope(number: int) -> Callable[[Array], Array]:
        return jax.grad(lambda x: jnp.mean(jnp.square(features(x)[number] - wanted[number])))

    branches = [slope(number) for number in range(len(wanted))]
    low, high = jnp.maximum(images - how.eps, 0.0), jnp.minimum(images + how.eps, 1.0)

    def step(_: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, total = state
        gradient = lax.switch(layer, branches, x)
        size = jnp.sum(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
        total = how.momentum * total + gradient / jnp.maximum(size, 1e-12)
        return jnp.clip(x - how.step_size * jnp.sign(total), low, high), total

    distilled, _ = lax.fori_loop(0, how.num_steps, step, (images, jnp.zeros_like(images)))
    return distilled


@dataclasses.dataclass(frozen=True)
class _Symbols:
    """What the distillation is.

    Attributes:
        eps: of the distillation.
        step_size: of the distillation.
        num_steps: of the distillation.
        momentum: of the distillation.
        layer: of the features, from 1; None draws it once an epoch. Epochs are those of the run's
            plan; outside a run one is as many steps as the training split has batches of the size
            that the loss is given.
        layer_seed: root of that draw, a function of the epoch alone.
    """

    eps: float = 0.07
    step_size: float = 0.007
    num_steps: int = 10
    momentum: float = 1.0
    layer: int | None = None
    layer_seed: int = 0


@dataclasses.dataclass(frozen=True)
class Distillation(_Symbols, Term):
    """The members' cross-entropies on the images that the others distill, summed.

    What is random in the network is off while images are distilled. Reports `accuracy` (the share
    of right decisions of single members on the images that they train on) and `layer` (from 1).

    Its fields are the symbols of `DVERGE`.

    References:
        Yang et al., "DVERGE: Diversifying Vulnerabilities for Enhanced Robust Generation of
        Ensembles", NeurIPS 2020.

    Example:
        >>> from robust_jax.methods import Distillation
        >>> term = Distillation(layer=None)
        >>> drawn = [int(term.draw_layer(jnp.asarray(epoch), 20)) for epoch in range(100)]
        >>> min(drawn), max(drawn)
        (0, 19)
        >>> int(Distillation(layer=20).draw_layer(jnp.asarray(0), 20))
        19
    """

    pairs_of_members = epochs = one_by_one = moves_images = True

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "eps", "momentum")
        checks.above(self, 0, "step_size")
        checks.at_least(self, 1, "num_steps", "layer")

    def draw_layer(self, epoch: Int[Array, ""], num_layers: int) -> Int[Array, ""]:
        """Returns the number, from 0, of the layer that an epoch distills.

        Raises:
            ValueError: the network has fewer layers than `layer`.
        """
        if self.layer is None:
            key = rng.stream(jax.random.key(self.layer_seed), "layer", epoch)
            return jax.random.randint(key, (), 0, num_layers)
        if self.layer > num_layers:
            raise ValueError(f"Expected layer={self.layer} <= {num_layers}, the network's layers.")
        return jnp.asarray(self.layer - 1)

    def distilled_by_all(self, passed: Pass) -> tuple[Float[Array, "m b h w k"], Int[Array, ""]]:
        """Returns every member's distilled images, and the layer."""
        images = passed.batch.image
        targets = jnp.roll(images, 1, axis=0)

        def by_member(member: Member) -> tuple[Array, Array]:
            layers = jax.eval_shape(lambda x: pre_activations(member, x), images)
            layer = self.draw_layer(passed.epoch.number, len(layers))
            return distill(member, images, targets, layer, self), layer

        found, layers = passed.over_members(by_member, lax.stop_gradient(passed.variables))
        return lax.stop_gradient(found), layers[0]

    def __call__(self, passed: Pass) -> Value:
        """Returns the sum.

        Raises:
            ValueError: a batch of one image, or a layer too high.
        """
        batch_size = passed.batch.image.shape[0]
        if batch_size < 2:
            raise ValueError(f"Expected batch_size={batch_size} >= 2: images are targets.")
        distilled, layer = self.distilled_by_all(passed)
        num_members = len(distilled)

        def of_member(member: Member, number: Int[Array, ""]) -> tuple[Array, Array, Variables]:
            """Returns one member's loss on the others' images, and its statistics after it."""

            def on_images_of(moved, other):
                source = jnp.where(other < number, other, other + 1)  # all but this one
                logits, moved = member.train(moved, distilled[source], other)
                value = cross_entropy(logits, passed.labels, passed.label_smoothing)
                return moved, (value, metrics.accuracy(logits, passed.labels))

            statistics = {n: v for n, v in member.variables.items() if n == "batch_stats"}
            moved, (values, right) = lax.scan(on_images_of, statistics, jnp.arange(num_members - 1))
            return jnp.sum(values), jnp.mean(right), moved

        values, right, moved = passed.over_members(
            of_member, {**passed.variables, **passed.moved}, jnp.arange(num_members)
        )
        passed.moved = of_ensemble(moved)
        report = {"accuracy": jnp.mean(right), "layer": (layer + 1).astype(jnp.float32)}
        return Value(jnp.sum(values), report)


@dataclasses.dataclass(frozen=True)
class DVERGE(_Symbols, EnsembleMethod):
    """An ensemble trained on the images that its members distill for one another.

    With x'_i the image near x whose features in member i are another image's, member j's loss is ::

        sum_{i != j} CE(f_j(x'_i), y)

    Views: those of `network_method`.

    The loss, the sum over members, reports `accuracy` (the share of right decisions of single
    members on the distilled images that they train on) and `layer` (from 1).

    Attributes:
        eps: radius of the Linf ball in which images are distilled, pixels in [0, 1].
        step_size: of a step along the sign of the accumulated gradient.
        num_steps: of the distillation.
        momentum: share of the former gradients that a step keeps.
        layer: whose features are distilled, from 1; None draws it once an epoch.
        layer_seed: root of that draw, a function of the epoch alone.

    Fields beside these are those of `MethodConfig`.

    References:
        Yang et al., "DVERGE: Diversifying Vulnerabilities for Enhanced Robust Generation of
        Ensembles", NeurIPS 2020.

    Example:
        >>> from robust_jax.methods import DVERGE
        >>> from robust_jax.models import EnsembleConfig, ResNetConfig
        >>> config = DVERGE(EnsembleConfig(ResNetConfig(depth=20), num_members=3), eps=0.07)
        >>> [type(term).__name__ for term in config.own_terms]
        ['Distillation']
        >>> round(config.eps / config.step_size)
        10
    """

    @property
    def own_terms(self) -> tuple[Term, ...]:
        """Returns the distillation, which takes the place of the cross-entropy."""
        return (self.part(Distillation),)
