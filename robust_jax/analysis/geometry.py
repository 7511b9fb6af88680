"""What images and their changes do inside a network: activations, perturbations, gradients.

Taps are a network's, by layer: [b h w k] or [b k], of an ensemble with a leading member axis.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from robust_jax import rng
from robust_jax.attacks.threat import expand, l2_norm, unit_l2


@runtime_checkable
class TapsView(Protocol):
    """Returns the activations of images by layer, `method.taps` of given variables."""

    def __call__(self, images: Array, /, *, key: Key[Array, ""]) -> Mapping[str, Array]: ...


def with_members(tap: Float[Array, "*m_b_hw k"]) -> Float[Array, "m b *hw_k"]:
    """Returns a layer's activations with a member axis, of length one for a single network.

    Args:
        tap: of a single network [b h w k] or [b k], of an ensemble [m b h w k] or [m b k].

    Example:
        >>> from robust_jax.analysis import with_members
        >>> with_members(jnp.zeros((2, 8, 8, 3))).shape, with_members(jnp.zeros((4, 2, 10))).shape
        ((1, 2, 8, 8, 3), (4, 2, 10))
    """
    return tap[None] if tap.ndim % 2 == 0 else tap


def norms(values: Float[Array, "m b *shape"]) -> Float[Array, "m b"]:
    """Returns each member's Euclidean norm on each example, also where squares would underflow.

    Args:
        values: of each member and example.

    Example:
        >>> from robust_jax.analysis import norms
        >>> norms(jnp.asarray([[[3.0, 4.0], [0.0, 0.0]]])).tolist()  # one member, two examples
        [[5.0, 0.0]]
    """
    return jax.vmap(l2_norm)(values)


def zero_share(norms: Float[Array, "*rest b"], threshold: float = 0.0) -> Float[Array, "*rest"]:
    """Returns the share of examples whose norm is at most a threshold: of gradients, the dead.

    Where the gradient of a loss vanishes an attack that follows it does nothing, and a cosine with
    it is not defined.

    Args:
        norms: of gradients.
        threshold: 0 for those that are exactly zero in their precision; 1e-12 is usual.

    Raises:
        ValueError: the threshold is negative.

    Example:
        >>> from robust_jax.analysis import zero_share
        >>> zero_share(jnp.asarray([0.0, 0.0, 1e-13, 0.5])).item()  # of gradients: the dead
        0.5
    """
    if threshold < 0:
        raise ValueError(f"Expected threshold={threshold} >= 0.")
    return jnp.mean(norms <= threshold, axis=-1, dtype=norms.dtype)


class Perturbation(NamedTuple):
    """How far a layer's activations moved.

    Attributes:
        absolute: ||y' - y||_2 (KAP, figure A5).
        relative: ||y' - y||_2 / ||y||_2 (KAP, figure A6); inf or nan where y is zero.

    Example:
        >>> from robust_jax.analysis import perturbations
        >>> clean = jnp.asarray([[3.0, 4.0]])  # taps [b k]
        >>> moved = perturbations({"dense": clean}, {"dense": 1.5 * clean})["dense"]
        >>> moved.absolute.tolist(), moved.relative.tolist()
        ([[2.5]], [[0.5]])
    """

    absolute: Float[Array, "m b"]
    relative: Float[Array, "m b"]


@jax.jit
def perturbations(
    clean: Mapping[str, Array], perturbed: Mapping[str, Array]
) -> dict[str, Perturbation]:
    """Returns how far each example's perturbation moved every layer.

    Args:
        clean: taps of the clean images.
        perturbed: taps of the perturbed ones; of a random network under the same key, else the
            redrawn noise is part of the change.

    Example:
        >>> from robust_jax.analysis import perturbations
        >>> clean = {"conv": jnp.ones((5, 4, 4, 2)), "dense": jnp.ones((5, 10))}
        >>> found = perturbations(clean, jax.tree.map(lambda tap: 2 * tap, clean))
        >>> {layer: each.relative.shape for layer, each in found.items()}
        {'conv': (1, 5), 'dense': (1, 5)}

    References:
        Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", 2022,
        figures A5 and A6.
    """
    found = {}
    for layer, tap in clean.items():
        before, after = with_members(tap), with_members(perturbed[layer])
        absolute = norms(after - before)
        found[layer] = Perturbation(absolute, absolute / norms(before))
    return found


def kernel_activations(
    taps: Mapping[str, Array], *, key: Key[Array, ""]
) -> dict[str, Float[Array, "m b p"]]:
    """Returns the activations of one kernel of every layer, at all its positions (KAP, figure A4).

    Args:
        taps: of a batch.
        key: draws the kernels; the same key draws the same ones, so that those of clean, noisy
            and adversarial images can be compared.

    Example:
        >>> from robust_jax.analysis import kernel_activations
        >>> taps = {"conv": jnp.ones((5, 4, 4, 2)), "dense": jnp.ones((5, 10))}
        >>> found = kernel_activations(taps, key=jax.random.key(0))
        >>> {layer: values.shape for layer, values in found.items()}  # [m b p]
        {'conv': (1, 5, 16), 'dense': (1, 5, 1)}

    References:
        Bashivan et al., 2022, as for `perturbations`, figure A4.
    """
    found = {}
    for layer, tap in taps.items():
        values = with_members(tap)
        kernel = jax.random.randint(rng.stream(key, layer), (), 0, values.shape[-1])
        one = jnp.take(values, kernel, axis=-1)
        found[layer] = one.reshape((*one.shape[:2], -1))
    return found


def matched_noise(
    images: Float[Array, "b *shape"], perturbed: Float[Array, "b *shape"], *, key: Key[Array, ""]
) -> Float[Array, "b *shape"]:
    """Returns the images with Gaussian noise as long as each one's perturbation.

    What a perturbation does beyond its length shows beside it. The noise is not clipped to the box.

    Args:
        images: clean images.
        perturbed: the same under an attack.
        key: draws the noise.

    Example:
        >>> from robust_jax.analysis import matched_noise
        >>> images = jnp.full((1, 4), 0.5)
        >>> noisy = jax.jit(matched_noise)(images, images + 0.25, key=jax.random.key(0))
        >>> round(jnp.linalg.norm(noisy - images).item(), 3)  # as long as the perturbation
        0.5
    """
    noise = jax.random.normal(key, images.shape, images.dtype)
    length = l2_norm(perturbed - images)
    return images + unit_l2(noise) * expand(length, images)


def tsne(
    features: Float[Array, "n f"], *, perplexity: float = 30.0, seed: int = 0
) -> Float[np.ndarray, "n 2"]:
    """Returns a two-dimensional t-SNE embedding (REGroup, figure 5).

    Args:
        features: of each example, a flattened tap for instance.
        perplexity: about how many neighbours an example has.
        seed: of the embedding, which is random.

    Raises:
        ValueError: there are not more examples than the perplexity.

    Example:
        >>> from robust_jax.analysis import tsne
        >>> features = jnp.zeros((5, 64))  # `tsne(features, perplexity=2.0)` is [5 2]
        >>> tsne(features)
        Traceback (most recent call last):
        ValueError: Expected 0 < perplexity=30.0 < 5, the examples.

    References:
        van der Maaten and Hinton, "Visualizing data using t-SNE", 2008.
    """
    if not 0 < perplexity < len(features):
        raise ValueError(f"Expected 0 < perplexity={perplexity} < {len(features)}, the examples.")
    # Imported here: it takes a second, and only this function needs it.
    from sklearn.manifold import TSNE

    embedding = TSNE(perplexity=perplexity, random_state=seed, init="pca", n_jobs=1)
    return np.asarray(embedding.fit_transform(np.asarray(features)), np.float32)
