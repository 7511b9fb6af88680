"""What a method changes in every layer of a network, in an order, whatever the network is.

A layer asks its changes one after another: a convolution before it runs (`before_conv`), for its
weights (`on_weights`) and after (`after_conv`), an activation function after it (`after_act`), a
linear layer before it (`before_dense`); the images are asked for in front of the network
(`on_images`). Changes that follow act on what those before them made. Arrays and their names stay
those of the plain network, so weights move between the two.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from robust_jax import checks, rng
from robust_jax.types import Variables

if TYPE_CHECKING:
    from robust_jax.models.layers import Activation, Conv, Dense

Phase = Literal["training", "prediction"]
BOTH: tuple[Phase, ...] = ("training", "prediction")


def phases(training: bool, prediction: bool) -> tuple[Phase, ...]:
    """Returns the phases that are said."""
    said = dict(zip(BOTH, (training, prediction), strict=True))
    return tuple(phase for phase in BOTH if said[phase])


class Mode(NamedTuple):
    """How a layer is called.

    Attributes:
        train: does BatchNorm normalise by the batch, and move its statistics?
        deterministic: does nothing sample?

    Example:
        >>> from robust_jax.models import InputNoise, Mode
        >>> noise = InputNoise(0.1, when=("training",))
        >>> [Mode(train, deterministic=False).samples(noise) for train in (True, False)]
        [True, False]
    """

    train: bool
    deterministic: bool

    @property
    def phase(self) -> Phase:
        """Returns the phase of a run that such a call belongs to."""
        return "training" if self.train else "prediction"

    def samples(self, change: "LayerChange") -> bool:
        """Returns whether a change is to draw now."""
        return not self.deterministic and self.phase in change.phases


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """A change of layers; a subclass overrides what it changes.

    What is random draws from `layer.make_rng("sample")`, and only where `mode.samples(self)`.

    Attributes:
        activation: class of the activation functions, where its name is part of what their draws
            are keyed by; None for the plain one.

    Example:
        >>> import dataclasses
        >>> from robust_jax.methods import KAP, LayerChange
        >>> @dataclasses.dataclass(frozen=True)
        ... class Scaled(LayerChange):
        ...     factor: float = 0.5
        ...     def after_act(self, layer, x, mode):
        ...         return self.factor * x
        >>> [type(change).__name__ for change in KAP(changes=(Scaled(),)).all_changes]
        ['KernelPooling', 'ActivationNoise', 'Scaled']
    """

    activation: ClassVar[type[nn.Module] | None] = None

    @property
    def phases(self) -> Sequence[Phase]:
        """Returns in which phases it draws; none of what is not random."""
        return ()

    def on_images(
        self, images: Float[Array, "b h w k"], mode: Mode, key: Key[Array, ""] | None
    ) -> Float[Array, "b h w k"]:
        """Returns the images that the network is given; there is a key where something draws."""
        del mode, key
        return images

    def before_conv(
        self, layer: "Conv", x: Float[Array, "b h w k"], mode: Mode
    ) -> Float[Array, "b h w k"]:
        """Returns what a convolution is given."""
        del layer, mode
        return x

    def on_weights(
        self,
        layer: "Conv",
        kernel: Float[Array, "kh kw k out"],
        bias: Float[Array, " out"] | None,
        given: tuple[int, ...],
    ) -> tuple[Array, Array | None]:
        """Returns the weights that a convolution has, for activations of a shape."""
        del layer, given
        return kernel, bias

    def after_conv(
        self, layer: "Conv", x: Float[Array, "b h w out"], mode: Mode, given: tuple[int, ...]
    ) -> Float[Array, "b h w out2"]:
        """Returns what a convolution returns, whose activations before it had the shape `given`."""
        del layer, mode, given
        return x

    def after_act(
        self, layer: "Activation", x: Float[Array, "..."], mode: Mode
    ) -> Float[Array, "..."]:
        """Returns what an activation function returns."""
        del layer, mode
        return x

    def before_dense(
        self, layer: "Dense", x: Float[Array, "b k"], mode: Mode
    ) -> Float[Array, "b k"]:
        """Returns what a linear layer is given."""
        del layer, mode
        return x


@dataclasses.dataclass(frozen=True)
class InputNoise(LayerChange):
    """Gaussian noise on the images, which are not clipped.

    Attributes:
        sigma: standard deviation, pixels in [0, 1].
        share: probability with which an image has it.
        when: phases that have it.

    Example:
        >>> from robust_jax.models import InputNoise, Mode
        >>> noise, images = InputNoise(0.2), jnp.zeros((64, 8, 8, 1))
        >>> training, quiet = Mode(train=True, deterministic=False), Mode(False, deterministic=True)
        >>> noisy = noise.on_images(images, training, jax.random.key(0))
        >>> np.asarray(noisy).std().round(1).item()
        0.20000000298023224
        >>> noise.on_images(images, quiet, None) is images
        True
    """

    sigma: float = 0.1
    share: float = 1.0
    when: tuple[Phase, ...] = BOTH

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "sigma")
        checks.shares(self, "share")

    @property
    def phases(self) -> Sequence[Phase]:
        """Returns when it draws."""
        return self.when if self.sigma else ()

    def on_images(
        self, images: Float[Array, "b h w k"], mode: Mode, key: Key[Array, ""] | None
    ) -> Float[Array, "b h w k"]:
        """Returns images with noise."""
        if not mode.samples(self):
            return images
        key = rng.required_key(key)
        noise = jax.random.normal(rng.stream(key, "input_noise"), images.shape, images.dtype)
        noise = self.sigma * noise
        if self.share < 1:
            chosen = jax.random.bernoulli(
                rng.stream(key, "noisy"), self.share, (images.shape[0], 1, 1, 1)
            )
            noise = jnp.where(chosen, noise, 0.0)
        return images + noise


@dataclasses.dataclass(frozen=True)
class OfConvolutions(LayerChange):
    """A change of some convolutions, or of all.

    Attributes:
        only: names of those that are changed, "conv1" for every one that is called so,
            "layer1_0.conv1" for that of one block; empty for all.
    """

    only: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def is_of(self, layer: "Conv") -> bool:
        """Returns whether a convolution is one of those that are changed."""
        return not self.only or any(_is_named(layer.where, name) for name in self.only)


def on_images(
    changes: Iterable[LayerChange],
    images: Float[Array, "b h w k"],
    mode: Mode,
    key: Key[Array, ""] | None,
) -> Float[Array, "b h w k"]:
    """Returns the images that a changed network is given."""
    for change in changes:
        images = change.on_images(images, mode, key)
    return images


def check_changes(changes: Sequence[LayerChange]) -> None:
    """Checks that changes do not contradict each other.

    Raises:
        ValueError: two of one class, or one that draws in no phase although it is random.
    """
    kinds = [type(change).__name__ for change in changes]
    twice = [name for name in dict.fromkeys(kinds) if kinds.count(name) > 1]
    if twice:
        raise ValueError(f"Expected changes={kinds} to have {twice[0]} once: which would count?")
    for change in changes:
        when = getattr(change, "when", BOTH)
        if not when or not set(when) <= set(BOTH):
            raise ValueError(
                f"Expected when={when} of {type(change).__name__} to name a phase, of {BOTH}."
            )


def _is_named(path: tuple[str, ...], name: str) -> bool:
    """Returns whether a layer's path ends with a name, "conv1" or "layer1_0.conv1"."""
    parts = tuple(name.split("."))
    return path[-len(parts) :] == parts


def check_names(changes: Iterable[LayerChange], params: Variables) -> None:
    """Checks that every convolution that a change names is there.

    Raises:
        ValueError: names the first that is not.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    # Of an ensemble they have an axis more.
    paths = [tuple(key.key for key in path[:-1]) for path, leaf in leaves
             if path[-1].key == "kernel" and leaf.ndim >= 4]  # fmt: skip
    for change in changes:
        for name in change.only if isinstance(change, OfConvolutions) else ():
            if not any(_is_named(path, name) for path in paths):
                known = sorted({path[-1] for path in paths})
                example = ".".join(paths[-1][-2:])
                raise ValueError(
                    f"Expected only={name!r} to be one of the convolutions {known}, or one alone, "
                    f"as {example!r}."
                )
