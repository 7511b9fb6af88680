"""What every attack is: a frozen configuration that is called on a view and a batch of images.

Nothing here knows of networks: a view is any JAX function from images to logits.
"""

import abc
import dataclasses
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.checks import check_batch, check_images, check_logits, check_starts
from robust_jax.attacks.leaves import WithLeaves
from robust_jax.attacks.passes import Passes, counted, marked
from robust_jax.attacks.runs import Given
from robust_jax.attacks.threat import without_nan
from robust_jax.runtime.live import as_pytree, compiled
from robust_jax.types import Images, KeyArray, View

AttackType = TypeVar("AttackType", bound="Attack")


@dataclasses.dataclass(frozen=True)
class Attack(WithLeaves, abc.ABC):
    """Hyper-parameters of an attack, called as `attack(view, images, labels, key=key)`.

    Subclasses add their fields and `perturb`. Where the arrays are concrete (a notebook), the
    call checks their values too. It attacks the view as it is at the call, whatever became of the
    weights since the last one, and compiles once per attack, program of the view and shape; another
    radius or step size compiles nothing (they are the attack's leaves, as a pytree); a plain
    function is traced at every call, `bind` and `Partial` are not (see `as_view`). Inside
    a caller's `jit` only shapes and dtypes can be checked, and values are the caller's.

    Guarantees:
        The result has the images' shape and dtype and lies in the box; it is the clean image, which
        may lie outside by a rounding error of 1e-6, where nothing is found or an attack loses
        itself in NaN. No gradient flows through it. Calling is the same inside and outside `jit`.
        For a deterministic view row i depends only on row i, its index and the key (up to the
        rounding of the view itself): not on batch size, padding, order or sharding.

    Attributes:
        needs_logits: is a view that gives probabilities an error? Not for attacks that only
            compare scores, to which a method's `predict` may be handed.
        on_host: does it run on the host over compiled parts? Then it cannot be traced by `jit`.
        targeted: are the labels classes to reach, not to leave? A field of the attacks that can
            be either.
        takes_starts: does it begin at other images, of which `starts` gives some?

    Raises:
        ValueError: hyper-parameters make no sense, or (at a call) shapes, dtypes or values of the
            arrays do not fit.

    Example:
        >>> from robust_jax.attacks import BIM, ThreatModel, as_view
        >>> view = as_view(lambda images: 9 * images)  # two pixels, two classes
        >>> images, labels, key = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0]), jax.random.key(0)
        >>> attack = BIM(ThreatModel("linf", eps=0.1), num_steps=5)
        >>> adversarial, passes = attack.counted(view, images, labels, key=key)
        >>> adversarial.argmax(1).item(), passes.backward.item()
        (1, 5)
    """

    needs_logits: ClassVar[bool] = True
    on_host: ClassVar[bool] = False
    takes_starts: ClassVar[bool] = False
    targeted = False  # without an annotation, so that subclasses may make it a field

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""

    def check_in_training(self) -> None:
        """Checks that training can be on its images: made inside the step, away from the labels.

        Raises:
            ValueError: it runs on the host, or is targeted, which would take images to their class.
        """
        if self.on_host or self.targeted:
            wanted = "run inside the step" if self.on_host else "be untargeted"
            raise ValueError(f"Expected attack of class {type(self).__name__} to {wanted}.")

    @property
    @abc.abstractmethod
    def box(self) -> tuple[float, float]:
        """Returns the smallest and largest pixel value."""

    def check(self, images: Array | np.ndarray) -> None:
        """Raises ValueError where images of this shape do not suit the attack."""

    @abc.abstractmethod
    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images; `__call__` has checked and prepared what is given."""

    @abc.abstractmethod
    def reduced(self) -> "Attack":
        """Returns the attack at the small budget of a trial, whose numbers nobody compares.

        About a thousand passes of the model an image at most: enough to see that everything runs
        and what breaks outright. An attack that needs no more gives itself; `at_most` makes one.
        """

    def at_most(self: AttackType, **limits: int) -> AttackType:
        """Returns the attack with each of these fields no larger than its limit."""
        fields = {name: min(getattr(self, name), limit) for name, limit in limits.items()}
        return dataclasses.replace(self, **fields)

    def success_scores(self, logits: Float[Array, "*m b c"]) -> Float[Array, "b c"]:
        """Returns the scores by which a success is judged, of what the view gives.

        Of members the logarithm of their mean probability, unless the attack knows their vote.

        Args:
            logits: of one network, or of members or draws.
        """
        return losses.decision(logits)

    def has_start(self, given: Given) -> Bool[Array, " b"]:
        """Returns which images `perturb` has a start for: all, unless it begins at other images."""
        return jnp.ones(given.labels.shape, bool)

    def started(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
        starts: ArrayLike | None = None,
    ) -> Bool[Array, " b"]:
        """Returns which images a call with these arguments finds a start for.

        The others come back clean without having been attacked: no robust accuracy should count
        them. Of an attack that does not begin at other images it is all of them.

        Args:
            view: as in a call.
            images: as in a call.
            labels: as in a call.
            key: as in a call.
            index: as in a call.
            starts: as in a call.
        """
        given = self.prepared(view, images, labels, key=key, index=index, starts=starts)
        return _started(self, given)

    def prepared(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
        starts: ArrayLike | None = None,
    ) -> Given:
        """Returns the arguments of a call as compiled parts take them, checked.

        Of arrays that are being traced only shapes and dtypes are.

        Raises:
            ValueError: see `__call__`.
        """
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        index = jnp.arange(labels.size) if index is None else jnp.asarray(index)
        check_batch(images, labels, index)
        if starts is not None:
            if not self.takes_starts:
                raise ValueError(
                    f"Expected starts to be None: {type(self).__name__} begins at the images "
                    "themselves."
                )
            starts = jnp.asarray(starts)
            check_starts(starts, images)
            if not isinstance(starts, Tracer):
                check_images(starts, self.box, "starts")
        # Whatever integers a caller has, loops carry the dtype of `argmax`: int32, or in JAX's
        # 64-bit mode int64.
        integer = jnp.result_type(int)
        labels, index = labels.astype(integer), index.astype(integer)
        self.check(images)
        view = as_pytree(view)
        if images.size and not isinstance(images, Tracer):
            check_images(images, self.box)
            if not isinstance(labels, Tracer):
                check_logits(
                    view,
                    images,
                    labels,
                    key=rng.stream(key, "check"),
                    index=index,
                    allow_probabilities=not self.needs_logits,
                )
        return Given(view, images, labels, key, index, starts)

    def dry_run(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
        starts: ArrayLike | None = None,
    ) -> Array:
        """Returns images of the same shape, of arrays that are being traced.

        Whatever a call would trace is traced. An attack on the host says here how.
        """
        return self(view, images, labels, key=key, index=index, starts=starts)

    def __call__(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
        starts: ArrayLike | None = None,
    ) -> Array:
        """Returns the adversarial images.

        Args:
            view: the model under attack, see `View`; `as_view` makes one of a plain function.
            images: clean images [b ...], float32 or float64, inside the box.
            labels: class of each image [b]; of a targeted attack the class to reach.
            key: root of the attack's random draws.
            index: dataset row of each image [b], from which its own draws are derived; default
                0, 1, ..., b-1. Give it where a batch is a part of a dataset.
            starts: clean images [n ...] of many classes, the same at every call, one of which each
                image begins at where the attack begins at other images (Boundary, HopSkipJump);
                only they take any.

        Raises:
            ValueError: shapes, dtypes or (where they are concrete) values do not fit.
        """
        given = self.prepared(view, images, labels, key=key, index=index, starts=starts)
        return _perturbed(self, given) if len(given.images) else given.images

    def counted(
        self,
        view: View,
        images: ArrayLike,
        labels: ArrayLike,
        *,
        key: KeyArray,
        index: ArrayLike | None = None,
        starts: ArrayLike | None = None,
    ) -> tuple[Array, Passes]:
        """Returns the images of a call with these arguments, and the passes that they cost.

        Images of one batch cost the same, whichever of them fell early: all are computed until
        the last is done. How many that are can depend on who is in the batch.

        Args:
            view: as in a call.
            images: as in a call.
            labels: as in a call.
            key: as in a call.
            index: as in a call.
            starts: as in a call.
        """
        given = self.prepared(view, images, labels, key=key, index=index, starts=starts)
        if not len(given.images):
            none = jnp.zeros(0, jnp.int32)
            return given.images, Passes(none, none)
        return _counted(self, given)


def perturbed(attack: Attack, given: Given) -> Images:
    """Returns the images of a call, inside a caller's compiled function."""
    # The arguments are cut too, so that loops inside are not differentiated for nothing.
    view, images = jax.lax.stop_gradient((given.view, given.images))
    adversarial = attack.perturb(given._replace(view=view, images=images))
    return jax.lax.stop_gradient(without_nan(adversarial, images))


@compiled
def _counted(attack: Attack, given: Given) -> tuple[Images, Passes]:
    given = given._replace(view=marked(given.view))
    return counted(perturbed, given.images)(attack, given)


@compiled
def _perturbed(attack: Attack, given: Given) -> Images:
    return perturbed(attack, given)


@compiled
def _started(attack: Attack, given: Given) -> Bool[Array, " b"]:
    return attack.has_start(given)
