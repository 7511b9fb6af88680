"""The layer of KAP: a convolution, the kernel pool on its output, Gaussian noise after it."""

import math

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.methods.kap_pool import KernelPool
from robust_jax.models import Layers
from robust_jax.models.layers import Conv
from robust_jax.models.noise import gaussian
from robust_jax.runtime.compilation import computed_once
from robust_jax.types import Variables

_ASSUMED_BATCH_SIZE = 64
"""Where the number of activations is compared with that of weights; a constant, so that what is
computed for an image does not depend on how many others there are."""


class NoisyPooledConv(Conv):
    """Convolution, kernel pooling, activation noise.

    The parameters are those of `Conv`, so weights move between pooled and plain networks.

    Attributes:
        pool: the pool; None for the noise alone.
        sigma: standard deviation of the noise.
        normalized: factories of whose BatchNorm one stands before the pool; None for none.
        pooled: names of the convolutions that are pooled and noised; the others stay as they are.
            Empty for all.
    """

    pool: KernelPool | None = None
    sigma: float = 0.0
    normalized: Layers | None = None
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
        linear = self.normalized is None and (self.pool is None or self.pool.kind == "average")
        # Equation 3: the mean of convolutions is the convolution by the mean kernel. On the CPU the
        # smaller of the two is pooled: activations of small images have fewer values than weights.
        rows = math.ceil(x.shape[1] / self.strides) * math.ceil(x.shape[2] / self.strides)
        few = rows * _ASSUMED_BATCH_SIZE < math.prod(kernel.shape[:-1])
        if linear and not (few and jax.default_backend() == "cpu"):
            bias = bias if bias is None else pool(bias)
            x = self.convolve(x, computed_once(pool(kernel)), bias)
        else:
            x = self.convolve(x, kernel, bias)
            if self.normalized is not None:
                norm = self.normalized.norm(framework=self.framework, name="inner_norm")
                x = norm(x, train=train, deterministic=deterministic)
            x = pool(x)
        if self.sigma and not deterministic:
            x = x + self.sigma * gaussian(self.make_rng("sample"), x.shape, x.dtype)
        return x


def _is_named(path: tuple[str, ...], name: str) -> bool:
    """Returns whether a layer's path ends with a name, "conv1" or "layer1_0.conv1"."""
    parts = tuple(name.split("."))
    return path[-len(parts) :] == parts


def check_names(pooled: tuple[str, ...], params: Variables) -> None:
    """Checks that every name is that of a convolution.

    Raises:
        ValueError: names the first that is not.
    """
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
