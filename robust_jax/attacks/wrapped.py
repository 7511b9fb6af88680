"""Attacks on a view made of the one given: the average of random draws, rescaled logits.

Transfer from the noise-off copy of the same weights needs no attack of its own: attack the view
`noise_off` and judge by the deployed rule.
"""

import dataclasses
from typing import ClassVar, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.base import Attack
from robust_jax.attacks.bounded import BoundedAttack
from robust_jax.attacks.checks import check_counts, check_positive
from robust_jax.attacks.runs import Found, Given, Number, Run
from robust_jax.attacks.threat import Norm
from robust_jax.attacks.views import Average, eot
from robust_jax.types import KeyArray, View


@dataclasses.dataclass(frozen=True)
class WrappedAttack(BoundedAttack):
    """Another attack, made to attack something else or to give back something else.

    Attributes:
        attack: that attack.
    """

    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)  # that attack says which

    attack: Attack

    @property
    def targeted(self) -> bool:
        """Returns whether the labels are classes to reach."""
        return self.attack.targeted

    @property
    def needs_logits(self) -> bool:  # type: ignore[override]
        """Returns whether a view that gives probabilities is an error."""
        return self.attack.needs_logits

    @property
    def takes_starts(self) -> bool:  # type: ignore[override]
        """Returns whether the attack begins at other images."""
        return self.attack.takes_starts

    def check(self, images: Array | np.ndarray) -> None:
        """Raises ValueError where images of this shape do not suit the attack."""
        super().check(images)
        self.attack.check(images)

    def reduced(self) -> "WrappedAttack":
        """Returns the same around the reduced attack."""
        return dataclasses.replace(self, attack=self.attack.reduced())

    def attacked(self, view: View) -> View:
        """Returns the view that the attack sees."""
        return view

    def success_scores(self, logits: Float[Array, "*m b c"]) -> Float[Array, "b c"]:
        """Returns the scores by which the attack judges a success."""
        return self.attack.success_scores(logits)

    def has_start(self, given: Given) -> Bool[Array, " b"]:
        """Returns which images the attack has a start for."""
        return self.attack.has_start(given._replace(view=self.attacked(given.view)))


@dataclasses.dataclass(frozen=True)
class OnAnotherView(WrappedAttack):
    """Another attack, on a view made of the one given.

    Attributes:
        attack: the attack, with this threat model.
    """

    attack: BoundedAttack

    def __post_init__(self) -> None:
        """Raises ValueError where the attack is not such a one."""
        super().__post_init__()
        inner = self.attack
        if not isinstance(inner, BoundedAttack) or inner.threat != self.threat or inner.on_host:
            raise ValueError(
                f"Expected attack={inner} to be a bounded one that can be traced, with "
                f"threat={self.threat!r}."
            )

    @property
    def num_runs(self) -> int:
        """Returns the number of runs of the attack."""
        return self.attack.num_runs

    @property
    def parallel(self) -> bool:
        """Returns whether all runs of the attack are made at once."""
        return self.attack.parallel

    def targets(self, given: Given) -> Int[Array, "b t"] | None:
        """Returns the classes that runs of the attack are made towards."""
        return self.attack.targets(given._replace(view=self.attacked(given.view)))

    def planned(self, number: Number, targets: Int[Array, "b t"] | None) -> Run:
        """Returns the run of this number of the attack."""
        return self.attack.planned(number, targets)

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of one run of the attack."""
        return self.attack.run(run, given._replace(view=self.attacked(given.view)))


@dataclasses.dataclass(frozen=True)
class Averaged(OnAnotherView):
    """Another attack on the average of fresh draws: the adaptive one (EOT) for a random model.

    Attributes:
        threat: the ball, that of the attack.
        attack: which attack.
        num_samples: draws per evaluation; check with `standing_with_twice_the_draws`.
        average: what is averaged, see `eot`.
        parallel_draws: all draws at once, at so many times the memory.

    Raises:
        ValueError: the threat models differ, or there are no draws.

    Example:
        >>> from robust_jax.attacks import FGSM, Averaged, ThreatModel
        >>> def view(images, *, key):  # two pixels, two classes, noise
        ...     return images + jax.random.uniform(key, images.shape)
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> threat = ThreatModel("linf", eps=0.125)
        >>> attack = Averaged(threat, attack=FGSM(threat), num_samples=20)
        >>> attack(view, images, labels, key=jax.random.key(0)).argmax(1).item()
        1

    References:
        Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", 2018.
    """

    num_samples: int = 20
    average: Average = "gradients"
    parallel_draws: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where the threat models differ or there are no draws."""
        super().__post_init__()
        check_counts(self, "num_samples")

    def reduced(self) -> "Averaged":
        """Returns the attack at the small budget of a trial."""
        return dataclasses.replace(self, attack=self.attack.reduced()).at_most(num_samples=4)

    def attacked(self, view: View) -> View:
        """Returns the average."""
        return eot(view, self.num_samples, average=self.average, parallel=self.parallel_draws)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RescaledView:
    """Logits divided by their own gap: the same decision, never a saturated softmax."""

    view: View
    sharpness: float = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Array, *, key: KeyArray) -> Float[Array, "*s b c"]:
        """Returns the rescaled logits; no gradient flows through the gap."""
        logits = self.view(images, key=key)
        return self.sharpness * logits / jax.lax.stop_gradient(losses.spread(logits))[..., None]


@dataclasses.dataclass(frozen=True)
class Rescaled(OnAnotherView):
    """Another attack on logits divided by their own gap, for saturated models.

    Where a softmax is saturated in float32 its gradient is exactly zero and a gradient attack does
    nothing; after rescaling the gradient's direction is that of the logits.

    Attributes:
        threat: the ball, that of the attack.
        attack: which attack.
        sharpness: gap of the rescaled logits.

    Raises:
        ValueError: the threat models differ, or the gap is not positive.

    Example:
        >>> from robust_jax.attacks import FGSM, Rescaled, ThreatModel, as_view
        >>> view = as_view(lambda images: 1e4 * images)  # a softmax of ones and zeros
        >>> images, labels = jnp.asarray([[0.6, 0.5, 0.4]]), jnp.asarray([0])
        >>> plain = FGSM(ThreatModel("linf", eps=0.125))
        >>> plain(view, images, labels, key=jax.random.key(0)).argmax(1).item()  # has not moved
        0
        >>> attack = Rescaled(plain.threat, attack=plain)
        >>> attack(view, images, labels, key=jax.random.key(0)).argmax(1).item()
        1
    """

    sharpness: float = 4.0

    def __post_init__(self) -> None:
        """Raises ValueError where the threat models differ or the gap is not positive."""
        super().__post_init__()
        check_positive(self, "sharpness")

    def attacked(self, view: View) -> View:
        """Returns the rescaled logits."""
        return RescaledView(view, self.sharpness)


@runtime_checkable
class AttackFn(Protocol):
    """Returns adversarial images: an attack, or a compiled function that calls one."""

    def __call__(
        self, view: View, images: ArrayLike, labels: ArrayLike, /, *, key: KeyArray
    ) -> Array: ...


def standing_with_twice_the_draws(
    attack: AttackFn,
    view: View,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    num_samples: int,
    judge: View,
    key: KeyArray,
    average: Average = "gradients",
) -> tuple[Bool[Array, " b"], Bool[Array, " b"]]:
    """Returns which images stand with so many draws per gradient, and with twice as many.

    Where their shares differ by more than a percent, the number of draws is too small to trust.

    Args:
        attack: an attack.
        view: a random view.
        images: clean images.
        labels: class of each image.
        num_samples: draws per gradient.
        judge: function `(images, *, key) -> scores` that decides, under keys of its own.
        key: root of all draws.
        average: what `eot` averages.

    Example:
        >>> from robust_jax.attacks import standing_with_twice_the_draws
        >>> def view(images, *, key):  # two pixels, two classes, noise
        ...     return images + 0.01 * jax.random.uniform(key, images.shape)
        >>> def attack(view, images, labels, *, key):  # the worst of a linear model
        ...     return images + jnp.asarray([[-0.1, 0.1]])
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> once, twice = standing_with_twice_the_draws(
        ...     attack, view, images, labels, num_samples=20, judge=view, key=jax.random.key(0)
        ... )
        >>> once.tolist(), twice.tolist()
        ([False], [False])
    """
    labels = jnp.asarray(labels)

    def standing(draws: int) -> Bool[Array, " b"]:
        averaged = eot(view, draws, average=average)
        adversarial = attack(averaged, images, labels, key=rng.stream(key, "attack"))
        scores = judge(adversarial, key=rng.stream(key, "judge"))
        return losses.decided(scores) == labels

    return standing(num_samples), standing(2 * num_samples)
