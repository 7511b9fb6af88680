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
import functools

from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.draws import averaged
from robust_jax.methods.network import Sampling, classifier, network_method
from robust_jax.models import Conv, Layers, default_layers
from robust_jax.models.noise import gaussian
from robust_jax.types import Task


class NoisyInputConv(Conv):
    """Convolution of its input with noise; the parameters are those of `Conv`.

    Attributes:
        init_sigma: standard deviation where it is the network's first convolution.
        inner_sigma: standard deviation elsewhere.
    """

    init_sigma: float = 0.0
    inner_sigma: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "b out_h out_w out"]:
        """Returns the convolved activations; there is no noise when `deterministic`."""
        sigma = self.init_sigma if is_first(self.path) else self.inner_sigma
        if sigma and not deterministic:
            x = x + sigma * gaussian(self.make_rng("sample"), x.shape, x.dtype)
        return self.convolve(x, *self.weights(x.shape[-1]))


def is_first(path: tuple[str, ...]) -> bool:
    """Returns whether a convolution's path in a classifier is that of the first of its network."""
    *outer, name = path
    return name in ("stem_conv", "conv1") and set(outer) <= {"backbone", "member"}


def noisy_layers(init_sigma: float, inner_sigma: float) -> Layers:
    """Returns factories of layers with noise before every convolution.

    Raises:
        ValueError: a negative standard deviation.
    """
    for name, value in (("init_sigma", init_sigma), ("inner_sigma", inner_sigma)):
        if value < 0:
            raise ValueError(f"Expected {name}={value} >= 0.")
    conv = functools.partial(NoisyInputConv, init_sigma=init_sigma, inner_sigma=inner_sigma)
    return default_layers()._replace(conv=conv)


@dataclasses.dataclass(frozen=True)
class RandomSelfEnsemble(MethodConfig):
    """A network, or an ensemble, with noise before every convolution.

    Views: those of `network_method` and of `averaged`: `deployed` is the mean probability of
    `num_draws` passes, `one_draw` a single one (the authors' attack sees fresh noise at every
    step), `noise_off` none of the noise, `taps` those of one pass.

    Attributes:
        init_sigma: standard deviation of the noise before the first convolution.
        inner_sigma: standard deviation of the noise before every other one.
        num_draws: n, passes of a prediction.
    """

    init_sigma: float = 0.2
    inner_sigma: float = 0.1
    num_draws: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        noisy_layers(self.init_sigma, self.inner_sigma)
        if self.num_draws < 1:
            raise ValueError(f"Expected num_draws={self.num_draws} >= 1.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset."""
        network = classifier(self, task, noisy_layers(self.init_sigma, self.inner_sigma))
        noisy = Sampling(layers=True)
        method = network_method(network, self, task, training=noisy, prediction=noisy)
        return averaged(method, self.num_draws, self.vote)
