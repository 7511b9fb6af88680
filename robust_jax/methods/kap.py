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
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.batch_statistics import check_statistics, cumulative, fitted, reestimate
from robust_jax.methods.network import Sampling, classifier, network_method
from robust_jax.models import Classifier, Layers, default_layers
from robust_jax.models.layers import Conv
from robust_jax.models.noise import gaussian
from robust_jax.runtime.compilation import computed_once
from robust_jax.types import Batch, Task, Variables


@dataclasses.dataclass(frozen=True)
class KernelPool:
    """Pooling over neighbouring channels.

    Attributes:
        kind: "average" (KAP) or "max" (kernel max pooling, the paper's control).
        kernel_size: K, cells of the window along each axis of the grid.
        stride: S.
        dimensions: 2 for a grid of channels (algorithm 1), 1 for a line (equation 2).
        grids: (rows, columns) of each channel count that occurs; empty for closest factors.
        count_include_pad: divide by K^2 everywhere, as if cells outside the grid were zeros.
        restore_channels: for stride > 1, zeros around the pooled grid keep the channel count.
    """

    kind: Literal["average", "max"] = "average"
    kernel_size: int = 3
    stride: int = 1
    dimensions: Literal[1, 2] = 2
    grids: tuple[tuple[int, int], ...] = ()
    count_include_pad: bool = False
    restore_channels: bool = False

    def __post_init__(self) -> None:
        for name in ("kernel_size", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 1.")
        if self.dimensions == 1 and self.grids:
            raise ValueError(f"Expected grids={self.grids} to be empty with dimensions=1.")

    def grid(self, num_channels: int) -> tuple[int, int]:
        """Returns rows and columns of the grid; channel c lies at row c // columns.

        Raises:
            ValueError: no given grid holds that many channels, or the window is larger.
        """
        if self.dimensions == 1:
            rows, columns = 1, num_channels
        elif self.grids:
            found = [grid for grid in self.grids if grid[0] * grid[1] == num_channels]
            if not found:
                raise ValueError(
                    f"Expected grids={self.grids} to have one of the {num_channels} channels."
                )
            rows, columns = found[0]
        else:
            rows = max(r for r in range(1, math.isqrt(num_channels) + 1) if num_channels % r == 0)
            columns = num_channels // rows
        smallest = columns if self.dimensions == 1 else min(rows, columns)
        if self.kernel_size > smallest:
            raise ValueError(
                f"Expected kernel_size={self.kernel_size} <= {smallest}, the shorter side of the "
                f"{rows} x {columns} grid of {num_channels} channels."
            )
        return rows, columns

    def __call__(self, x: Float[Array, "*b k"]) -> Float[Array, "*b out"]:
        """Returns x pooled along its last axis; every other axis is left alone.

        The window is a sum of K shifted slices along each axis of the grid in turn, which XLA
        fuses into one pass: no gather, no K x K copies.
        """
        rows, columns = self.grid(x.shape[-1])
        grid = x.reshape((*x.shape[:-1], rows, columns))
        axes = (grid.ndim - 1,) if self.dimensions == 1 else (grid.ndim - 2, grid.ndim - 1)
        combine = jnp.add if self.kind == "average" else jnp.maximum
        outside = 0.0 if self.kind == "average" else -jnp.inf
        for axis in axes:
            grid = self._slide(grid, axis, combine, outside)
        if self.kind == "average":
            grid = grid / self._counts(rows, columns, grid.ndim).astype(grid.dtype)
        if self.restore_channels:
            grid = self._restore(grid, rows, columns)
        return grid.reshape((*x.shape[:-1], -1))

    def _padding(self) -> tuple[int, int]:
        low = (self.kernel_size - 1) // 2
        return low, self.kernel_size - 1 - low if self.stride == 1 else low

    def _slide(self, grid: Array, axis: int, combine: Callable[..., Array], outside: float):
        low, high = self._padding()
        padding = [(0, 0, 0)] * grid.ndim
        padding[axis] = (low, high, 0)
        padded = lax.pad(grid, jnp.asarray(outside, grid.dtype), padding)
        num_out = (padded.shape[axis] - self.kernel_size) // self.stride + 1
        span = (num_out - 1) * self.stride + 1
        return functools.reduce(
            combine,
            [
                lax.slice_in_dim(padded, start, start + span, self.stride, axis)
                for start in range(self.kernel_size)
            ],
        )

    def _counts(self, rows: int, columns: int, ndim: int) -> np.ndarray:
        if self.count_include_pad:
            return np.full((1,) * ndim, float(self.kernel_size**self.dimensions))
        low, high = self._padding()

        def along(length: int) -> np.ndarray:
            starts = np.arange(-low, length + high - self.kernel_size + 1, self.stride)
            ends = np.minimum(starts + self.kernel_size, length)
            return (ends - np.maximum(starts, 0)).astype(np.float64)

        row_counts = along(rows) if self.dimensions == 2 else np.ones(1)
        counts = row_counts[:, None] * along(columns)[None, :]
        return counts.reshape((1,) * (ndim - 2) + counts.shape)

    def _restore(self, grid: Array, rows: int, columns: int) -> Array:
        missing = (rows - grid.shape[-2], columns - grid.shape[-1])
        if missing[0] % 2 or missing[1] % 2:
            raise ValueError(
                f"Expected restore_channels=True to have an even margin around "
                f"{grid.shape[-2]} x {grid.shape[-1]} in {rows} x {columns}."
            )
        margins = [(0, 0, 0)] * (grid.ndim - 2) + [(m // 2, m // 2, 0) for m in missing]
        return lax.pad(grid, jnp.zeros((), grid.dtype), margins)


_ASSUMED_BATCH_SIZE = 64
"""Where the number of activations is compared with that of weights; a constant, so that what is
computed for an image does not depend on how many others there are."""


class NoisyPooledConv(Conv):
    """Convolution, kernel pooling, activation noise; with `inner_norm` BatchNorm before the pool.

    The parameters are those of `Conv`, so weights move between pooled and plain networks.
    """

    pool: KernelPool | None = None
    sigma: float = 0.0
    inner_norm: Callable[..., Any] | None = None
    pooled: tuple[str, ...] = ()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "b out_h out_w out"]:
        """Returns the pooled activations, with noise unless `deterministic`."""
        kernel, bias = self.weights(x.shape[-1])
        if self.pooled and not any(_is_named(self.path, name) for name in self.pooled):
            return self.convolve(x, kernel, bias)
        pool = self.pool or (lambda values: values)
        linear = self.inner_norm is None and (self.pool is None or self.pool.kind == "average")
        # Equation 3: the mean of convolutions is the convolution by the mean kernel. On the CPU the
        # smaller of the two is pooled: activations of small images have fewer values than weights.
        rows = math.ceil(x.shape[1] / self.strides) * math.ceil(x.shape[2] / self.strides)
        few = rows * _ASSUMED_BATCH_SIZE < math.prod(kernel.shape[:-1])
        if linear and not (few and jax.default_backend() == "cpu"):
            bias = bias if bias is None else pool(bias)
            x = self.convolve(x, computed_once(pool(kernel)), bias)
        else:
            x = self.convolve(x, kernel, bias)
            if self.inner_norm is not None:
                norm = self.inner_norm(framework=self.framework, name="inner_norm")
                x = norm(x, train=train, deterministic=deterministic)
            x = pool(x)
        if self.sigma and not deterministic:
            x = x + self.sigma * gaussian(self.make_rng("sample"), x.shape, x.dtype)
        return x


def _is_named(path: tuple[str, ...], name: str) -> bool:
    """Returns whether a layer's path ends with a name, "conv1" or "layer1_0.conv1"."""
    parts = tuple(name.split("."))
    return path[-len(parts) :] == parts


def _check_names(pooled: tuple[str, ...], params: Variables) -> None:
    """Raises ValueError where a name is that of no convolution."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    # Of an ensemble they have an axis more.
    paths = [tuple(key.key for key in path[:-1]) for path, leaf in leaves
             if path[-1].key == "kernel" and leaf.ndim >= 4]  # fmt: skip
    for name in pooled:
        if not any(_is_named(path, name) for path in paths):
            known = sorted({path[-1] for path in paths})
            example = ".".join(paths[-1][-2:])
            raise ValueError(
                f"Expected pooled={name!r} to be one of the convolutions {known}, or one alone, "
                f"as {example!r}."
            )


@dataclasses.dataclass(frozen=True)
class KAP(MethodConfig):
    """A network with kernel pooling and activation noise after its convolutions.

    Views: those of `network_method`; `deployed` has the noise of deployment, `noise_off` none.
    With re-estimated statistics `noise_off_training` is `noise_off` under those of training.

    Attributes:
        pool: the kernel pooling; None is the paper's NT(sigma), the noise alone.
        order: "conv_pool" (CIFAR) or "conv_norm_pool" (TinyImageNet, ImageNet; with pool=None
            both are convolution, noise).
        pooled: names of the convolutions that are pooled and noised, "conv1" for every one that is
            called so, "layer1_0.conv1" for that of one block; empty for all.
        sigma: standard deviation of the activation noise.
        noise_in_training: activation noise on in the loss?
        noise_in_prediction: activation noise on in the deployed prediction?
        input_sigma: standard deviation of Gaussian noise on the images.
        input_noise_in_training: input noise on in the loss?
        input_noise_in_prediction: input noise on in the deployed prediction?
        noise_off_statistics: BatchNorm statistics of the `noise_off` view: those of "training",
            or "reestimated" by `fit` without noise.
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
        super().__post_init__()
        for name in ("sigma", "input_sigma"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 0.")

    def make(self, task: Task) -> Method:
        """Returns the method for a dataset.

        Raises:
            ValueError: a name in `pooled` is no convolution's; at the first trace, where a
                layer's channels do not fit the pool.
        """
        network = self._network(task, default_layers())
        method = network_method(
            network,
            self,
            task,
            training=Sampling(
                layers=self.sigma > 0 and self.noise_in_training,
                input_noise=self.input_sigma if self.input_noise_in_training else 0.0,
            ),
            prediction=Sampling(
                layers=self.sigma > 0 and self.noise_in_prediction,
                input_noise=self.input_sigma if self.input_noise_in_prediction else 0.0,
            ),
        )

        if self.pooled:
            shapes = jax.eval_shape(method.init, key=jax.random.key(0))
            _check_names(self.pooled, shapes["params"])
        if self.noise_off_statistics == "training":
            return method
        averaging = self._network(task, cumulative(default_layers()))
        return _with_reestimated_statistics(method, averaging)

    def _network(self, task: Task, layers: Layers) -> Classifier:
        inner_norm = layers.norm if self.order == "conv_norm_pool" and self.pool else None

        def conv(*, name: str, **arguments: Any) -> nn.Module:
            return NoisyPooledConv(
                name=name, pool=self.pool, sigma=self.sigma, inner_norm=inner_norm,
                pooled=self.pooled, **arguments,
            )  # fmt: skip

        return classifier(self, task, layers._replace(conv=conv))


def _with_reestimated_statistics(method: Method, network: nn.Module) -> Method:
    """Returns the method with a `fit` that gathers BatchNorm statistics without noise.

    Args:
        method: the method.
        network: its network with `batch_statistics.cumulative` layers.
    """
    shapes = jax.eval_shape(lambda key: method.init(key=key), jax.random.key(0))
    check_statistics(shapes, "noise_off_statistics")

    def gather(variables, images, key):
        del key
        return network.apply(
            variables, images, train=True, deterministic=True, mutable=["batch_stats"]
        )[1]

    def fit(variables: Variables, batches: Iterable[Batch], *, key: Any) -> Variables:
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
