"""Views: models as an attack sees them.

Views made of views turn any attack into one on a random or opaque model.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robust_jax import rng, voting
from robust_jax.attacks import losses
from robust_jax.attacks.members import MemberFn
from robust_jax.runtime.live import as_pytree
from robust_jax.types import KeyArray, MethodView, Variables, View

Average = Literal["probabilities", "logits", "gradients"]


def bind(method_view: MethodView, variables: Variables) -> View:
    """Returns the view of a method's view function at given variables.

    The variables stay arguments of the compiled attack (they are leaves of the view, which is a
    pytree), so other weights of the same shapes compile nothing anew.

    Args:
        method_view: function `(variables, images, *, key) -> logits`, of its arguments alone; a
            bound method of an object is traced at every call, as the object may change.
        variables: the network's arrays.

    Example:
        >>> from robust_jax.attacks import bind
        >>> def logits(variables, images, *, key):
        ...     return images @ variables["weights"]
        >>> view = bind(logits, {"weights": jnp.asarray([[1.0, 2.0, 3.0]])})
        >>> view(jnp.ones((1, 1)), key=jax.random.key(0)).tolist()
        [[1.0, 2.0, 3.0]]
    """
    return jax.tree_util.Partial(method_view, variables)


def as_view(fn: Callable[[Array], Array]) -> View:
    """Returns the view of a plain function of images; the key is not used.

    Args:
        fn: function `images -> logits`, deterministic: a closure, a bound method, a module. It is
            attacked as it is at the call, and traced anew at every call; other weights of the
            same shapes compile nothing. `bind`, or a `jax.tree_util.Partial` of a pure function
            and its arrays, pays no tracing.

    Example:
        >>> from robust_jax.attacks import as_view
        >>> weights = jnp.asarray([[1.0, 2.0, 3.0]])
        >>> view = as_view(lambda images: images @ weights)
        >>> view(jnp.ones((1, 1)), key=jax.random.key(0)).tolist()
        [[1.0, 2.0, 3.0]]
    """
    return jax.tree_util.Partial(_without_key, as_pytree(fn))


def _without_key(
    fn: Callable[[Array], object], images: Array, *, key: KeyArray | None
) -> object:  # `check_logits` says what is no array of logits
    del key
    return fn(images)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExpectationOverTransformation:
    """The view that `eot` makes."""

    view: View
    num_samples: int = dataclasses.field(metadata={"static": True})
    average: Average = dataclasses.field(metadata={"static": True})
    parallel: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Array, *, key: KeyArray) -> Float[Array, "*s b c"]:
        """Returns the averaged logits, or the draws where gradients are averaged."""

        @jax.checkpoint
        def draw(sample):
            return self.view(images, key=rng.stream(key, "draw", sample))

        samples = jnp.arange(self.num_samples)
        logits = jax.vmap(draw)(samples) if self.parallel else jax.lax.map(draw, samples)
        if self.average == "gradients":
            return logits
        if self.average == "logits":
            return voting.mean_logit(logits)
        return losses.decision(logits)

    @property
    def member(self) -> MemberFn | None:
        """Returns the function of one draw alone, where draws are kept apart."""
        if self.average != "gradients":
            return None

        def draw(
            images: Array, number: Int[Array, ""] | int, /, *, key: KeyArray
        ) -> Float[Array, "b c"]:
            return self.view(images, key=rng.stream(key, "draw", number))

        return draw


def eot(
    view: View,
    num_samples: int,
    *,
    average: Average = "probabilities",
    parallel: bool = False,
) -> ExpectationOverTransformation:
    """Returns the view of a random model averaged over fresh draws at every call (EOT).

    Expectation over transformation: what makes an attack adaptive to a model that draws.

    Args:
        view: a random view.
        num_samples: number of draws, each under its own key.
        average: "probabilities": the log of the mean probability (what a soft vote over draws
            deploys); "logits": the mean logit; "gradients": the draws themselves [s b c], of
            which an attack averages the losses, so its gradient is the mean of theirs.
        parallel: all draws at once. Costs `num_samples` times the memory of one pass; in turn
            (the default) the memory is that of one pass, and the forward pass is computed twice.

    Raises:
        ValueError: there are no draws, or no such average.

    Example:
        >>> from robust_jax.attacks import eot
        >>> def view(images, *, key):  # noise is added to two logits
        ...     return images + jax.random.normal(key, images.shape)
        >>> averaged = eot(view, 8, average="gradients")  # attacks average the losses of its draws
        >>> averaged(jnp.zeros((3, 2)), key=jax.random.key(0)).shape
        (8, 3, 2)

    References:
        Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", 2018.
    """
    if num_samples < 1:
        raise ValueError(f"Expected num_samples={num_samples} >= 1.")
    check_average(average)
    return ExpectationOverTransformation(as_pytree(view), num_samples, average, parallel)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The view that `ensemble` makes."""

    views: tuple[View, ...]
    average: Average = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Array, *, key: KeyArray) -> Float[Array, "*s b c"]:
        """Returns the averaged logits, or all of them where gradients are averaged.

        Raises:
            ValueError: the views have not one number of classes.
        """
        found = [
            view(images, key=rng.stream(key, "member", member))
            for member, view in enumerate(self.views)
        ]
        counts = [logits.shape[-1] for logits in found]
        if len(set(counts)) > 1:
            raise ValueError(f"Expected views of one number of classes, found {counts}.")
        if self.average == "logits":
            return voting.mean_logit(jnp.stack([losses.decision(logits) for logits in found]))
        if self.average == "probabilities":
            return losses.decision(jnp.stack([losses.decision(logits) for logits in found]))
        return jnp.concatenate([logits if logits.ndim == 3 else logits[None] for logits in found])


def ensemble(views: Sequence[View], *, average: Average = "logits") -> Ensemble:
    """Returns the view of several models at once: sources of a transfer attack.

    Args:
        views: models of the same classes, each with draws of its own.
        average: "logits": their mean (which Dong et al. found to carry over best);
            "probabilities": the log of the mean probability; "gradients": the logits of all
            [s b c], of which an attack averages the losses.

    Raises:
        ValueError: no view, or an average that is none.

    Example:
        >>> from robust_jax.attacks import as_view, ensemble
        >>> ones = as_view(lambda images: jnp.ones((len(images), 2)))
        >>> tens = as_view(lambda images: jnp.full((len(images), 2), 10.0))
        >>> ensemble([ones, tens])(jnp.zeros((1, 4)), key=jax.random.key(0)).tolist()
        [[5.5, 5.5]]

    References:
        Liu, Chen, Liu, Song, "Delving into transferable adversarial examples and black-box
        attacks", 2017; Dong et al., "Boosting adversarial attacks with momentum", 2018 (section
        3.3, equations 11 to 13).
    """
    if not views:
        raise ValueError("Expected views=[] to hold one at least.")
    check_average(average)
    return Ensemble(tuple(as_pytree(view) for view in views), average)


def check_average(average: str) -> None:
    """Raises ValueError for what is no `Average`."""
    if average not in get_args(Average):
        raise ValueError(f"Expected average={average!r} to be one of {sorted(get_args(Average))}.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """The view that `frozen` makes."""

    view: View
    key: KeyArray

    def __call__(self, images: Array, *, key: KeyArray) -> Float[Array, "*s b c"]:
        """Returns the logits under the frozen key."""
        del key
        return self.view(images, key=rng.stream(self.key, "frozen"))


def frozen(view: View, *, key: KeyArray) -> Frozen:
    """Returns the view of a random model at one draw, the same at every call.

    Under `eot` every draw is that same one; for the mean of several frozen draws use
    `frozen(eot(view, num_samples), key=key)`.

    Args:
        view: a random view.
        key: the draw.

    Example:
        >>> from robust_jax.attacks import frozen
        >>> def view(images, *, key):  # noise is added to two logits
        ...     return images + jax.random.normal(key, images.shape)
        >>> one, images = frozen(view, key=jax.random.key(0)), jnp.zeros((1, 2))
        >>> bool((one(images, key=jax.random.key(1)) == one(images, key=jax.random.key(2))).all())
        True
    """
    return Frozen(as_pytree(view), key)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EachAlone:
    """The view that `each_alone` makes."""

    view: View
    key: KeyArray

    def __call__(self, images: Array, *, key: KeyArray) -> Float[Array, "b c"]:
        """Returns the logits of each image alone."""
        del key
        return jax.vmap(lambda image: self.view(image[None], key=self.key)[0])(images)


def each_alone(view: View, *, key: KeyArray) -> EachAlone:
    """Returns the view of a random model under one key, every image alone in its batch.

    So all images see the same draws, whatever batch they are in. (In a batch that is `frozen` rows
    have draws of their own.)

    Args:
        view: a random view of logits [b c].
        key: what it is given.
    """
    return EachAlone(as_pytree(view), key)


Tree = TypeVar("Tree")


def in_float64(tree: Tree) -> Tree:
    """Returns the tree (images, a view with its arrays) with every float array in float64.

    Whether float32 hides gradients is checked in float64, in a process of its own that is started
    with JAX_ENABLE_X64=1 and JAX_PLATFORMS=cpu: attacks compute in the images' dtype, so the same
    attack on `in_float64((view, images))` is all it takes (of a method: its configuration has
    dtype="float64").

    Args:
        tree: arrays and a view of arrays (`bind`), of any structure.

    Raises:
        ValueError: the process was not started with JAX_ENABLE_X64=1.

    Example:
        >>> from robust_jax.attacks import in_float64
        >>> images = jnp.asarray([[0.5]])
        >>> if jax.config.read("jax_enable_x64"):  # in such a process alone
        ...     images = in_float64(images)
        >>> jnp.result_type(images) == jnp.result_type(float)
        True
    """
    if not jax.config.read("jax_enable_x64"):
        raise ValueError("Expected jax_enable_x64=False to be True: start with JAX_ENABLE_X64=1.")

    def widen(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(widen, tree)
