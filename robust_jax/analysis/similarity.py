"""Linear centred kernel alignment (CKA) between layers and members.

Kornblith et al., "Similarity of neural network representations revisited", 2019. With centred
features X [n p] and Y [n q], CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F): 1 for rotated and
scaled copies. The squared norms are sums over pairs of examples of products of Gram matrices,
<K, L> with K = X X^T, which is how they are computed here.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from robust_jax import rng
from robust_jax.analysis.geometry import TapsView, with_members
from robust_jax.models.base import in_network_order
from robust_jax.runtime.live import compiled, held


def linear_cka(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Returns the CKA of two representations of the same examples; nan where one is constant.

    It is biased upwards where examples are fewer than features: `similarity` also gives an estimate
    without that bias.

    Args:
        x: features of n examples.
        y: others of the same examples.

    Example:
        >>> from robust_jax.analysis import linear_cka
        >>> x = jnp.asarray([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
        >>> round(linear_cka(x, 3 * x[:, ::-1]).item(), 3)  # a scaled and rotated copy
        1.0

    References:
        Kornblith et al., "Similarity of neural network representations revisited", 2019.
    """

    def gram(features: Array) -> Float[Array, "n n"]:
        centred = features - jnp.mean(features, axis=0, keepdims=True)
        matrix = jnp.matmul(centred, centred.T, precision="highest")
        return matrix / jnp.linalg.norm(matrix)

    return jnp.sum(gram(x) * gram(y))


class Similarity(NamedTuple):
    """CKA between all layers of all members.

    Attributes:
        layers: their names.
        cka: of every two layers and members [layer member layer member], as PARL's figure 2 has it.
        debiased: the same of the unbiased estimators of the three squared norms (Song et al., 2012,
            equation 5), which does not grow as examples become few, and may be negative; nan where
            its estimate of a norm is not positive or there are fewer than four examples.

    Example:
        >>> from robust_jax.analysis import Similarity
        >>> cka = np.asarray([[1.0, 0.25], [0.25, 1.0]]).reshape(1, 2, 1, 2)  # a layer, two members
        >>> Similarity(("conv",), cka, debiased=cka).between(0, 1)
        {'conv': 0.25}
    """

    layers: tuple[str, ...]
    cka: Float[np.ndarray, "l m l m"]
    debiased: Float[np.ndarray, "l m l m"]

    def between(self, first: int, second: int, *, debiased: bool = False) -> dict[str, float]:
        """Returns, layer by layer, the CKA of two members (a curve of PARL's figure 2)."""
        values = self.debiased if debiased else self.cka
        return {
            layer: float(values[number, first, number, second])
            for number, layer in enumerate(self.layers)
        }


def similarity(
    taps: TapsView,
    batches: Sequence[Float[Array, "_ h w k"]],
    *,
    key: Key[Array, ""],
    layers: tuple[str, ...] = (),
) -> Similarity:
    """Returns the CKA of every two layers and members over all images.

    The result is that of all images at once (`linear_cka`): a first pass finds the features' means,
    a second adds up the Gram matrices block by block, for every two batches. That takes n (n + 3)
    / 2 forward passes for n batches and the activations of two batches in memory.

    Args:
        taps: activations by layer, `jax.tree_util.Partial(method.taps, variables)`.
        batches: images; use equal sizes, each size compiles once.
        key: of a random method's draws, the same for a batch in both passes.
        layers: names of taps; empty for all.

    Raises:
        ValueError: a layer does not exist, or there are no batches.

    Example:
        >>> from robust_jax.analysis import similarity
        >>> def taps(images, *, key):  # two layers, one member
        ...     return {"0_conv": images, "1_conv": 2 * images}
        >>> batches = [jax.random.uniform(jax.random.key(0), (6, 4, 4, 1))]
        >>> found = similarity(taps, batches, key=jax.random.key(1))
        >>> found.layers, found.cka.shape, found.cka[0, 0, 1, 0].round(3).item()
        (('0_conv', '1_conv'), (2, 1, 2, 1), 1.0)

    References:
        Alam et al., "PARL", 2021, figure 2; Song et al., "Feature selection via dependence
        maximization", 2012.
    """
    if not batches:
        raise ValueError("Expected batches=[] to hold at least one batch.")
    view = held(taps)
    shapes = jax.eval_shape(lambda v, x, k: v(x, key=k), view, batches[0], key)
    for layer in layers:
        if layer not in shapes:
            raise ValueError(f"Expected layer {layer!r} to be one of {sorted(shapes)}.")
    chosen = tuple(layers) or in_network_order(shapes)

    num_examples = sum(len(images) for images in batches)

    def sums(number: int) -> list[Array]:
        return _sums_over_examples(view, batches[number], rng.stream(key, "batch", number), chosen)

    total = sums(0)
    for number in range(1, len(batches)):
        total = [known + more for known, more in zip(total, sums(number), strict=True)]
    means = [each / num_examples for each in total]

    def centred(number: int) -> list[Array]:
        return _less_means(view, batches[number], rng.stream(key, "batch", number), means, chosen)

    starts = list(itertools.accumulate((len(images) for images in batches), initial=0))
    grams = _Grams(sum(map(len, means)), num_examples)  # a matrix a layer and member
    for a in range(len(batches)):
        rows = centred(a)
        grams.add(_gram_block(rows, rows), starts[a], starts[a])
        for b in range(a + 1, len(batches)):
            grams.add(_gram_block(rows, centred(b)), starts[a], starts[b])
    num_layers = len(chosen)
    shape = (num_layers, -1, num_layers, grams.off_diagonal.shape[0] // num_layers)
    return Similarity(
        chosen,
        _normalised(grams.diagonal + grams.off_diagonal).reshape(shape),
        _normalised(grams.unbiased()).reshape(shape),
    )


@functools.partial(compiled, static_argnames=("layers",))
def _sums_over_examples(
    view: TapsView, images: Array, key: Key[Array, ""], layers: tuple[str, ...]
) -> list[Array]:
    taps = view(images, key=key)
    return [jnp.sum(with_members(taps[layer]), axis=1) for layer in layers]


@functools.partial(compiled, static_argnames=("layers",))
def _less_means(
    view: TapsView,
    images: Array,
    key: Key[Array, ""],
    means: list[Array],
    layers: tuple[str, ...],
) -> list[Array]:
    taps = view(images, key=key)
    return [
        with_members(taps[layer]).astype(jnp.float32) - mean[:, None]
        for layer, mean in zip(layers, means, strict=True)
    ]


@jax.jit
def _gram_block(rows: list[Array], columns: list[Array]) -> Float[Array, "lm a b"]:
    """Returns the block of the Gram matrix of every layer and member, scaled by its features."""
    grams = []
    for left, right in zip(rows, columns, strict=True):
        left, right = (x.reshape((*x.shape[:2], -1)) for x in (left, right))
        product = jnp.einsum("maf,mbf->mab", left, right, precision="highest")
        grams.append(product / left.shape[-1])
    return jnp.concatenate(grams)


class _Grams:
    """Sums over blocks of centred Gram matrices, all that CKA needs of them."""

    def __init__(self, num_matrices: int, num_examples: int):
        self.num_examples = num_examples
        self.diagonal = np.zeros((num_matrices, num_matrices))  # sum_a K_aa L_aa
        self.off_diagonal = np.zeros((num_matrices, num_matrices))  # sum_{a != b} K_ab L_ab
        self.row_sums = np.zeros((num_matrices, num_examples))  # sum_{b != a} K_ab

    def add(self, block: Array, row: int, column: int) -> None:
        """Adds the block of two batches, of different ones also its transpose."""
        gram = np.asarray(block, np.float64)
        weight = 2.0
        if row == column:
            weight = 1.0
            entries = np.einsum("iaa->ia", gram)
            self.diagonal = self.diagonal + entries @ entries.T
            gram = gram * (1 - np.eye(gram.shape[1]))
        else:
            self.row_sums[:, column : column + gram.shape[2]] += gram.sum(axis=1)
        self.row_sums[:, row : row + gram.shape[1]] += gram.sum(axis=2)
        flat = gram.reshape(len(gram), -1)
        self.off_diagonal = self.off_diagonal + weight * (flat @ flat.T)

    def unbiased(self) -> np.ndarray:
        """Returns the unbiased estimate of every <K, L>, up to a common factor."""
        n = self.num_examples
        if n < 4:
            return np.full_like(self.off_diagonal, np.nan)
        total = self.row_sums.sum(axis=1)
        return (
            self.off_diagonal
            + np.outer(total, total) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (self.row_sums @ self.row_sums.T)
        )


def _normalised(products: np.ndarray) -> np.ndarray:
    norms = np.diagonal(products)
    scale = np.sqrt(np.where(norms > 0, norms, np.nan))
    return products / np.outer(scale, scale)
