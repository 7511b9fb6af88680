"""CKA against its formula, in one piece and in batches, with and without its bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import analysis
from robust_jax.attacks import as_view
from robust_jax.methods import KAP
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.types import Task

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def formula(x, y):
    """||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) of centred features."""
    x, y = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (x, y))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return np.linalg.norm(y.T @ x) ** 2 / scale


def unbiased_product(x, y):
    """HSIC_1 of Song et al., 2012, equation 5, entry by entry."""
    k, g = (np.asarray(v, np.float64) @ np.asarray(v, np.float64).T for v in (x, y))
    n = len(k)
    trace = sum(k[i, j] * g[i, j] for i in range(n) for j in range(n) if i != j)
    k, g = k - np.diag(np.diag(k)), g - np.diag(np.diag(g))
    sums = k.sum() * g.sum() / (n - 1) / (n - 2)
    return (trace + sums - 2 / (n - 2) * (k.sum(0) @ g.sum(0))) / n / (n - 3)


def test_is_its_formula():
    x, y = RNG.normal(size=(12, 5)) + 3, RNG.normal(size=(12, 7))
    found = jax.jit(analysis.linear_cka)(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    assert float(found) == pytest.approx(formula(x, y), rel=1e-4)


def test_is_one_for_rotated_scaled_and_moved_copies():
    x = RNG.normal(size=(20, 6)).astype(np.float32)
    rotation, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    copy = (-3.0 * x @ rotation + 5.0).astype(np.float32)
    assert float(analysis.linear_cka(jnp.asarray(x), jnp.asarray(copy))) == pytest.approx(1, 1e-5)


IMAGES = RNG.uniform(size=(13, 4, 4, 1)).astype(np.float32)
WEIGHTS = RNG.normal(size=(2, 16, 10)).astype(np.float32)


def taps(images):
    """Two members: a spatial layer and a flat one with a large mean."""
    flat = images.reshape(len(images), -1)
    hidden = jnp.einsum("bp,mpf->mbf", flat, jnp.asarray(WEIGHTS))
    spatial = jnp.stack([images * 2 - 1, images**2])
    return {"00.conv": spatial, "01.head": jnp.tanh(hidden) + 10}


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("sizes", [(13,), (5, 8), (4, 4, 4, 1)])
def test_batches_give_what_all_images_at_once_give(sizes):
    batches = np.split(IMAGES, np.cumsum(sizes)[:-1])
    found = analysis.similarity(as_view(taps), [jnp.asarray(b) for b in batches], key=KEY)
    whole = {name: np.asarray(tap) for name, tap in taps(jnp.asarray(IMAGES)).items()}
    assert found.layers == ("00.conv", "01.head")
    features = [whole[layer][member].reshape(13, -1) for layer in whole for member in (0, 1)]
    expected = np.array([[formula(x, y) for y in features] for x in features])
    np.testing.assert_allclose(found.cka.reshape(4, 4), expected, rtol=2e-4, atol=1e-6)
    products = np.array([[unbiased_product(x, y) for y in features] for x in features])
    norm = np.sqrt(np.diag(products))
    expected = products / norm[:, None] / norm[None]
    np.testing.assert_allclose(found.debiased.reshape(4, 4), expected, rtol=2e-3, atol=2e-4)


def test_curves_of_pairs_and_chosen_layers():
    found = analysis.similarity(as_view(taps), [jnp.asarray(IMAGES)], key=KEY, layers=("01.head",))
    curve = found.between(0, 1)
    assert curve == {"01.head": found.cka[0, 0, 0, 1]}
    assert found.between(0, 1, debiased=True) == {"01.head": found.debiased[0, 0, 0, 1]}
    assert found.between(1, 1)["01.head"] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"Expected layer 'x' to be one of \['00.conv', "):
        analysis.similarity(as_view(taps), [jnp.asarray(IMAGES)], key=KEY, layers=("x",))
    with pytest.raises(ValueError, match=r"Expected batches=\[\]"):
        analysis.similarity(as_view(taps), [], key=KEY)


def test_few_examples_make_cka_large_but_not_its_debiased_estimate():
    """Independent features, 20 examples of 2000."""

    def noise(images):
        return {"00.x": jax.random.normal(jax.random.key(1), (2, len(images), 2000))}

    found = analysis.similarity(as_view(noise), [jnp.zeros((20, 2, 2, 1))], key=KEY)
    assert found.between(0, 1)["00.x"] > 0.8
    assert abs(found.between(0, 1, debiased=True)["00.x"]) < 0.2


def test_a_constant_layer_and_too_few_examples_are_undefined():
    def some(images):
        return {"00.c": jnp.ones((len(images), 3)), "01.x": images.reshape(len(images), -1)}

    found = analysis.similarity(as_view(some), [jnp.asarray(IMAGES[:3])], key=KEY)
    assert np.isnan(found.cka[0, 0, 0, 0])
    assert found.cka[1, 0, 1, 0] == pytest.approx(1)
    assert np.isnan(found.debiased).all()


@pytest.mark.slow
def test_a_random_ensemble_sees_the_same_draws_in_both_passes():
    """Its Gram matrices are those of one evaluation, so every layer is like itself."""
    network = EnsembleConfig(CNNConfig(widths=(9,), strides=(2,)), num_members=2)
    method = KAP(network=network, sigma=0.5).make(Task((8, 8, 1), 3, 10))
    variables = method.init(key=jax.random.key(1))
    images = jnp.asarray(RNG.uniform(size=(10, 8, 8, 1)), jnp.float32)
    view = jax.tree_util.Partial(method.taps, variables)
    found = analysis.similarity(view, [images[:5], images[5:]], key=KEY)
    np.testing.assert_allclose(np.einsum("lmlm->lm", found.cka), 1, rtol=1e-6)
    assert np.isfinite(found.cka).all()
    assert (found.cka < 1 + 1e-6).all()
