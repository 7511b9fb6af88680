"""Random self-ensemble (RSE): Gaussian noise before every convolution, in training and deployment.

Liu et al., "Towards Robust Neural Networks via Random Self-ensemble", ECCV 2018.

The network is trained with the cross-entropy of one noisy pass (algorithm 1) and predicts by the
mean softmax of n passes with fresh noise.

Sources of the defaults: noise of .2 before the first convolution and .1 before all others, 1 x 1
projections among them, are the sizes of the authors' later code (BayesianDefense), whose images
lie in [0, 1] without normalisation; n = 10 is what the RLS paper takes (that code takes 20).
BatchNorm's running statistics are those with noise. Activation noise has 65,536 levels
(`robust_jax/models/noise.py`).
"""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Array, Float

from robust_jax import checks
from robust_jax.methods.network import AveragedMethod
from robust_jax.models import Conv, LayerChange, Mode, Phase
from robust_jax.models.changes import BOTH
from robust_jax.models.noise import gaussian


@dataclasses.dataclass(frozen=True)
class Sigmas:
    """How much noise there is.

    Attributes:
        init_sigma: standard deviation of the noise before the first convolution.
        inner_sigma: standard deviation of the noise before every other one.
    """

    init_sigma: float = 0.2
    inner_sigma: float = 0.1


@dataclasses.dataclass(frozen=True)
class NoiseBeforeConv(Sigmas, LayerChange):
    """Gaussian noise on what every convolution is given.

    Attributes:
        when: phases that have it.

    References:
        Liu et al., "Towards Robust Neural Networks via Random Self-ensemble", ECCV 2018.

    Example:
        >>> from robust_jax.methods import NoiseBeforeConv, Standard
        >>> from robust_jax.models import EnsembleConfig, ResNetConfig
        >>> network = EnsembleConfig(ResNetConfig(depth=20), num_members=3)
        >>> Standard(network, changes=(NoiseBeforeConv(0.2, 0.1),)).samples_in("prediction")
        True
    """

    when: tuple[Phase, ...] = BOTH

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "init_sigma", "inner_sigma")

    @property
    def phases(self) -> Sequence[Phase]:
        """Returns when it draws."""
        return self.when if self.init_sigma or self.inner_sigma else ()

    def before_conv(
        self, layer: Conv, x: Float[Array, "b h w k"], mode: Mode
    ) -> Float[Array, "b h w k"]:
        """Returns noisy activations."""
        sigma = self.init_sigma if is_first(layer.where) else self.inner_sigma
        if not sigma or not mode.samples(self):
            return x
        return x + sigma * gaussian(layer.make_rng("sample"), x.shape, x.dtype)


def is_first(path: tuple[str, ...]) -> bool:
    """Returns whether a convolution's path in a classifier is that of the first of its network."""
    *outer, name = path
    return name in ("stem_conv", "conv1") and set(outer) <= {"backbone", "member"}


@dataclasses.dataclass(frozen=True)
class RandomSelfEnsemble(Sigmas, AveragedMethod):
    """A network, or an ensemble, with noise before every convolution.

    Trained with the cross-entropy of one noisy pass; decides by the mean softmax of `num_draws`.

    Views: those of `network_method` and `draws.deployed_as`: `deployed` is the mean probability of
    `num_draws` passes, `one_draw` a single one (the authors' attack sees fresh noise at every
    step), `noise_off` none of the noise, `taps` those of one pass.

    Attributes:
        init_sigma: standard deviation of the noise before the first convolution, on the images.
        inner_sigma: standard deviation of the noise before every other one.
        num_draws: n, passes averaged in a prediction, where `deployment` is None.

    Fields beside these are those of `MethodConfig`.

    References:
        Liu et al., "Towards Robust Neural Networks via Random Self-ensemble", ECCV 2018.

    Example:
        >>> from robust_jax.methods import RandomSelfEnsemble
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Task
        >>> network = CNNConfig(widths=(4,), strides=(2,))
        >>> config = RandomSelfEnsemble(network, init_sigma=0.2, inner_sigma=0.1, num_draws=10)
        >>> method = config.make(Task((8, 8, 1), num_classes=10, num_train=1000))
        >>> variables, key = method.init(key=jax.random.key(0)), jax.random.key(1)
        >>> method.views["members"](variables, jnp.zeros((2, 8, 8, 1)), key=key).shape  # draws
        (10, 2, 10)
    """

    @property
    def own_changes(self) -> tuple[LayerChange, ...]:
        """Returns noise before every convolution."""
        return (self.part(NoiseBeforeConv),)
