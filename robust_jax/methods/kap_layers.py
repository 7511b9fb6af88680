"""What KAP changes in a network: the kernel pool on every convolution, Gaussian noise after it.

Bashivan et al., "Learning Robust Kernel Ensembles with Kernel Average Pooling", arXiv 2210.00062,
2022, sections 3.2 and 3.4.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
from jaxtyping import Array, Float

from robust_jax import checks
from robust_jax.methods.kap_pool import KernelPool
from robust_jax.models import Conv, LayerChange, Mode, Phase
from robust_jax.models.changes import BOTH, OfConvolutions
from robust_jax.models.noise import gaussian
from robust_jax.runtime.compilation import computed_once

_ASSUMED_BATCH_SIZE = 64
"""Where the number of activations is compared with that of weights; a constant, so that what is
computed for an image does not depend on how many others there are."""


@dataclasses.dataclass(frozen=True)
class KernelPooling(OfConvolutions):
    """The channels of a convolution are pooled over their neighbours on a grid.

    Attributes:
        pool: the pool.
        order: "conv_pool" (CIFAR), or "conv_norm_pool" with a BatchNorm of its own before the pool
            (ImageNet).

    References:
        Bashivan et al., arXiv 2210.00062, 2022, section 3.2, equations 2 and 3, algorithm 1.

    Example:
        >>> from robust_jax.methods import KernelPooling, Standard
        >>> from robust_jax.models import strided_cnn
        >>> first = KernelPooling(only=("conv1",))  # figure A2b: after the first layer alone
        >>> config = Standard(strided_cnn(3), changes=(first,))
        >>> first.pool.grid(config.network.widths[0])
        (8, 8)
    """

    pool: KernelPool = KernelPool()
    order: Literal["conv_pool", "conv_norm_pool"] = "conv_pool"

    def __post_init__(self) -> None:
        checks.one_of(self, "order", ("conv_pool", "conv_norm_pool"))

    def on_weights(
        self,
        layer: Conv,
        kernel: Float[Array, "kh kw k out"],
        bias: Float[Array, " out"] | None,
        given: tuple[int, ...],
    ) -> tuple[Array, Array | None]:
        """Returns pooled kernels: the mean of convolutions is that by the mean kernel (eq. 3)."""
        if not self.is_of(layer) or not self._of_kernels(layer, given):
            return kernel, bias
        return computed_once(self.pool(kernel)), bias if bias is None else self.pool(bias)

    def after_conv(
        self, layer: Conv, x: Float[Array, "b h w out"], mode: Mode, given: tuple[int, ...]
    ) -> Float[Array, "b h w out2"]:
        """Returns the pooled activations."""
        if not self.is_of(layer) or self._of_kernels(layer, given):
            return x
        if self.order == "conv_norm_pool":
            norm = layer.inner_norm(framework=layer.framework, name="inner_norm")
            x = norm(x, train=mode.train, deterministic=mode.deterministic)
        return self.pool(x)

    def _of_kernels(self, layer: Conv, given: tuple[int, ...]) -> bool:
        """Returns whether kernels are pooled in the place of activations.

        On the CPU the smaller of the two is: activations of small images have fewer values. Not
        where an earlier change acts on the activations, which are pooled after it then.
        """
        before = layer.changes[: layer.changes.index(self)]
        early = any(type(each).after_conv is not LayerChange.after_conv for each in before)
        if early or self.order == "conv_norm_pool" or self.pool.kind != "average":
            return False
        rows = math.prod(math.ceil(side / layer.strides) for side in given[1:3])
        few = rows * _ASSUMED_BATCH_SIZE < math.prod(layer.kernel_size) * given[3]
        return not (few and jax.default_backend() == "cpu")


@dataclasses.dataclass(frozen=True)
class ActivationNoise(OfConvolutions):
    """Gaussian noise on what a convolution returns, after its pool.

    Attributes:
        sigma: standard deviation, absolute.
        when: phases that have it.

    References:
        Bashivan et al., arXiv 2210.00062, 2022, section 3.4, equation 9: the n_i.

    Example:
        >>> from robust_jax.methods import ActivationNoise, Standard
        >>> from robust_jax.types import Task
        >>> nt = Standard(changes=(ActivationNoise(0.2, when=("training",)),))  # NT(.2)
        >>> nt.samples_in("training"), nt.samples_in("prediction")
        (True, False)
        >>> nt.make(Task((32, 32, 3), num_classes=10, num_train=50_000)).stochastic
        False
    """

    sigma: float = 0.1
    when: tuple[Phase, ...] = BOTH

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "sigma")

    @property
    def phases(self) -> Sequence[Phase]:
        """Returns when it draws."""
        return self.when if self.sigma else ()

    def after_conv(
        self, layer: Conv, x: Float[Array, "b h w out"], mode: Mode, given: tuple[int, ...]
    ) -> Float[Array, "b h w out"]:
        """Returns noisy activations."""
        if not mode.samples(self) or not self.is_of(layer):
            return x
        # Equation 9, the next block's n_i.
        return x + self.sigma * gaussian(layer.make_rng("sample"), x.shape, x.dtype)
