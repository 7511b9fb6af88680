"""Convolutions as sums over the positions of their kernel: what no backend reads wrongly."""

import itertools

import jax.numpy as jnp
from jax import lax


def by_sums(x, kernel, pads, *, strides=(1, 1), dilation=(1, 1)):
    """Returns the convolution of images [b h w k] with a kernel [u v k features].

    Args:
        x: images.
        kernel: weights.
        pads: (low, high) along height and width; may be negative.
        strides: of the output.
        dilation: zeros put between inputs, plus one.
    """
    edges = [(*pad, a - 1) for pad, a in zip(pads, dilation, strict=True)]
    wide = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    height, width = (wide.shape[1 + i] - kernel.shape[i] + 1 for i in range(2))
    places = itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))
    met = [
        wide[:, u : u + height : strides[0], v : v + width : strides[1]] @ kernel[u, v]
        for u, v in places
    ]
    return sum(met)
