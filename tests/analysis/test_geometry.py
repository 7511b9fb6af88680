"""Changes of activations, dead gradients, noise of equal length, embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import analysis

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SHAPES = {"00.conv": (2, 3, 4, 4, 5), "01.head": (2, 3, 7)}


def taps(member_axis):
    found = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: jnp.asarray(tap if member_axis else tap[0]) for name, tap in found.items()}


@pytest.mark.parametrize("member_axis", [True, False])
def test_perturbations_by_a_loop(member_axis):
    clean, perturbed = taps(member_axis), taps(member_axis)
    found = analysis.perturbations(clean, perturbed)
    assert list(found) == list(SHAPES)
    for layer in SHAPES:
        before, after = (np.asarray(each[layer]) for each in (clean, perturbed))
        before, after = (x if member_axis else x[None] for x in (before, after))
        for m in range(len(before)):
            for b in range(3):
                change = np.linalg.norm((after[m, b] - before[m, b]).ravel())
                size = np.linalg.norm(before[m, b].ravel())
                assert float(found[layer].absolute[m, b]) == pytest.approx(change, rel=1e-5)
                assert float(found[layer].relative[m, b]) == pytest.approx(change / size, rel=1e-5)


def test_change_of_nothing_is_infinite():
    found = analysis.perturbations({"00.x": jnp.zeros((1, 3))}, {"00.x": jnp.ones((1, 3))})
    assert float(found["00.x"].relative[0, 0]) == np.inf


def test_zero_share():
    norms = jnp.array([[0.0, 1e-13, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_allclose(analysis.zero_share(norms), [0.5, 0])
    np.testing.assert_allclose(analysis.zero_share(norms, 1e-12), [0.75, 0])
    with pytest.raises(ValueError, match=r"Expected threshold=-1.0 >= 0\."):
        analysis.zero_share(norms, -1.0)


def test_norms_do_not_underflow():
    found = analysis.norms(jnp.full((2, 3, 2, 2), 1e-30))
    np.testing.assert_allclose(found, np.full((2, 3), 2e-30), rtol=1e-6)


def test_one_kernel_of_every_layer():
    clean, other = taps(True), taps(True)
    drawn = analysis.kernel_activations(clean, key=KEY)
    again = analysis.kernel_activations(other, key=KEY)
    for layer, shape in SHAPES.items():
        flat = np.asarray(clean[layer]).reshape(2, 3, -1, shape[-1])
        matches = [c for c in range(shape[-1]) if np.array_equal(drawn[layer], flat[..., c])]
        assert len(matches) == 1
        flat = np.asarray(other[layer]).reshape(2, 3, -1, shape[-1])
        np.testing.assert_array_equal(again[layer], flat[..., matches[0]])
    kernels = {
        float(analysis.kernel_activations(clean, key=jax.random.key(n))["01.head"][0, 0, 0])
        for n in range(20)
    }
    assert len(kernels) > 2


def test_noise_is_as_long_as_the_perturbation():
    images = jnp.asarray(RNG.uniform(size=(3, 4, 4, 2)), jnp.float32)
    perturbed = images + jnp.array([0.0, 0.1, 1.0]).reshape(3, 1, 1, 1)
    noisy = analysis.matched_noise(images, perturbed, key=KEY)
    length = np.linalg.norm(np.asarray(noisy - images).reshape(3, -1), axis=1)
    np.testing.assert_allclose(length, [0, 0.1 * np.sqrt(32), np.sqrt(32)], rtol=1e-5)
    cosine = np.sum(np.asarray(noisy - images)[2] / length[2] / np.sqrt(32))
    assert abs(cosine) < 0.6


def test_tsne_keeps_clusters_apart():
    features = RNG.normal(size=(40, 10)).astype(np.float32)
    features[20:] += 20
    points = analysis.tsne(jnp.asarray(features), perplexity=5.0)
    first, second = points[:20], points[20:]
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > 2 * max(np.linalg.norm(x - x.mean(0), axis=1).max() for x in (first, second))
    np.testing.assert_array_equal(points, analysis.tsne(jnp.asarray(features), perplexity=5.0))
    with pytest.raises(ValueError, match=r"Expected 0 < perplexity=40\.0 < 40"):
        analysis.tsne(jnp.asarray(features), perplexity=40.0)
