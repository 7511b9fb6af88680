"""Kernel average pooling (KAP) with activation noise.

Bashivan et al., "Learning Robust Kernel Ensembles with
Kernel Average Pooling", arXiv 2210.00062, 2022.

The channels of a convolution are arranged on a grid; KAP replaces each by the mean of its
neighbours there (equations 2 and 10, algorithm 1), so that neighbouring kernels come to do the
same work, a small ensemble each. Gaussian noise follows every pool. There are no parameters.

Where the paper and the authors' code leave a choice, the first named is the default:

* the mean is over the grid cells that exist (code; `count_include_pad=True` is the paper's 1/K^2);
* channels that do not form a square lie on the grid of closest factors, rows <= columns (code);
* stride > 1 shrinks the channel count (small CNNs of the code), or `restore_channels` puts the
  pooled grid in the middle of a zero grid of the old size (CIFAR ResNets of the code);
* an even kernel with stride 1 is padded by one more cell at the end, so that the count is kept
  (neither says; the code's symmetric padding loses a row and a column);
* `order="conv_pool"` is the code's CIFAR block (convolution, pool, noise, BatchNorm, ReLU),
  `order="conv_norm_pool"` its ImageNet block, with BatchNorm before the pool as well;
* the noise has 65,536 equiprobable levels, the centres of normal quantiles, none beyond 4.33 sigma
  (`models/noise.py`), where the code draws floats; its variance is sigma^2 (1 - 3e-5);
* noise is on in training and in deployment (code); statistics of BatchNorm are those gathered with
  noise, also when the noise is off, unless `noise_off_statistics="reestimated"`: means over batches
  without noise, after training (`batch_statistics.py`).
"""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import jax
from jaxtyping import Array, Key

from robust_jax import checks
from robust_jax.methods.base import Forward, Method, MethodConfig
from robust_jax.methods.batch_statistics import check_statistics, cumulative, fitted, reestimate
from robust_jax.methods.kap_layers import ActivationNoise, KernelPooling
from robust_jax.methods.kap_pool import KernelPool
from robust_jax.methods.network import forward_fn, network_method
from robust_jax.models import InputNoise, LayerChange, default_layers
from robust_jax.models.changes import phases
from robust_jax.types import Batch, Task, Variables


@dataclasses.dataclass(frozen=True)
class KAP(MethodConfig):
    """A network with kernel average pooling (KAP) and activation noise after its convolutions.

    The channels of a convolution lie on a grid, row by row, and every one becomes the mean of the
    K x K cells around it. Of 12 channels, on 3 rows and 4 columns, channel 6 takes those in
    brackets (K = 3) ::

        0 [ 1   2   3 ]
        4 [ 5   6   7 ]
        8 [ 9  10  11 ]

    Views: those of `network_method`; `deployed` has the noise of deployment, `noise_off` none.
    With re-estimated statistics `noise_off_training` is `noise_off` under those of training.

    A layer whose channels do not fit the pool is an error where the network is first traced.

    Attributes:
        pool: the kernel pooling; None is the paper's NT(sigma), the noise alone.
        order: "conv_pool" (CIFAR) or "conv_norm_pool" (TinyImageNet, ImageNet; with pool=None
            both are convolution, noise).
        pooled: names of the convolutions that are pooled and noised, "conv1" for every one that is
            called so, "layer1_0.conv1" for that of one block; empty for all.
        sigma: standard deviation of the activation noise, absolute: what follows may grow over it.
        noise_in_training: activation noise on in the loss?
        noise_in_prediction: activation noise on in the deployed prediction?
        input_sigma: standard deviation of Gaussian noise on the images, pixels in [0, 1].
        input_noise_in_training: input noise on in the loss?
        input_noise_in_prediction: input noise on in the deployed prediction?
        noise_off_statistics: BatchNorm statistics of the `noise_off` view: those of "training",
            or "reestimated" by `fit` without noise.

    Fields beside these are those of `MethodConfig`.

    References:
        Bashivan et al., "Learning Robust Kernel Ensembles with Kernel Average Pooling", arXiv
        2210.00062, 2022: equation 2 along a line of channels, equation 10 and algorithm 1 on the
        grid (`KernelPool`); equation 9 with the noise.

    Example:
        >>> from robust_jax.methods import KAP, KernelPool
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.types import Task
        >>> network = CNNConfig(widths=(12, 64), strides=(1, 2))
        >>> config = KAP(network, pool=KernelPool(kernel_size=3, stride=1), sigma=0.1)
        >>> [config.pool.grid(width) for width in network.widths]  # rows and columns of channels
        [(3, 4), (8, 8)]
        >>> method = config.make(Task((8, 8, 1), num_classes=10, num_train=1000))
        >>> method.stochastic, "noise_off" in method.views
        (True, True)
    """

    pool: KernelPool | None = KernelPool()
    order: Literal["conv_pool", "conv_norm_pool"] = "conv_pool"
    pooled: tuple[str, ...] = ()
    sigma: float = 0.1
    noise_in_training: bool = True
    noise_in_prediction: bool = True
    input_sigma: float = 0.0
    input_noise_in_training: bool = True
    input_noise_in_prediction: bool = True
    noise_off_statistics: Literal["training", "reestimated"] = "training"

    def __post_init__(self) -> None:
        checks.at_least(self, 0, "sigma", "input_sigma")
        super().__post_init__()

    @property
    def own_changes(self) -> tuple[LayerChange, ...]:
        """Returns noise on the images, the pool, and noise after it."""
        changes: list[LayerChange] = []
        when = phases(self.input_noise_in_training, self.input_noise_in_prediction)
        if self.input_sigma and when:
            changes.append(InputNoise(self.input_sigma, when=when))
        if self.pool is not None:
            changes.append(KernelPooling(self.pool, self.order, only=self.pooled))
        when = phases(self.noise_in_training, self.noise_in_prediction)
        if self.sigma and when:
            changes.append(ActivationNoise(self.sigma, when, only=self.pooled))
        return tuple(changes)

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: a name in `pooled` is no convolution's.
        """
        method = network_method(self.classifier(task), self, task)
        if self.noise_off_statistics == "training":
            return method
        averaging = self.classifier(task, cumulative(default_layers()))
        return _with_reestimated_statistics(method, forward_fn(averaging, self.all_changes))


def _with_reestimated_statistics(method: Method, forward: Forward) -> Method:
    """Returns the method with a `fit` that gathers BatchNorm statistics without noise.

    Args:
        method: the method.
        forward: the pass of its network with `batch_statistics.cumulative` layers.
    """
    shapes = jax.eval_shape(lambda key: method.init(key=key), jax.random.key(0))
    check_statistics(shapes, "noise_off_statistics")

    def gather(variables, images, key):
        del key
        return forward(variables, images, key=None, train=True, deterministic=True)[1]

    def fit(variables: Variables, batches: Iterable[Batch], *, key: Key[Array, ""]) -> Variables:
        return reestimate(gather, variables, batches, key=key)

    def noise_off(variables, images, *, key=None):
        if "fitted" not in variables:
            raise ValueError("Expected variables to hold 'fitted': call fit(...) first.")
        arrays = {**variables, **variables["fitted"]}
        return method.views["noise_off"](arrays, images, key=key)

    views = {
        **method.views,
        "noise_off": noise_off,
        "noise_off_training": method.views["noise_off"],
    }
    return method._replace(fit=fit, fitted=fitted, views=views)
