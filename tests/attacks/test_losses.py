"""Losses that attacks raise, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import losses
from robust_jax.attacks.losses import probability_margin


def test_losses_by_hand():
    logits = jnp.asarray([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    labels = jnp.asarray([1, 2])
    np.testing.assert_allclose(
        losses.cross_entropy(logits, labels),
        [np.log(np.exp(-2) + 1 + np.exp(-1)), np.log(3)],
        rtol=1e-6,
    )
    np.testing.assert_allclose(losses.margin(logits, labels), [-1, 0])
    # Equal logits: the first class is the decision.
    np.testing.assert_array_equal(losses.misclassified(logits, labels), [False, True])


def test_dlr_losses_by_hand():
    logits = jnp.asarray([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]])
    labels = jnp.asarray([0, 2])
    np.testing.assert_allclose(losses.dlr(logits, labels), [(3 - 4) / (4 - 1), (4 - 3) / 3])
    # (z_t - z_y) / (z_1 - (z_3 + z_4) / 2)
    towards = losses.targeted_dlr(jnp.asarray([1, 3]))
    np.testing.assert_allclose(towards(logits, labels), [-3 / 3.5, -3 / 3.5])
    np.testing.assert_allclose(
        losses.dlr(100 * logits + 7, labels), losses.dlr(logits, labels), rtol=1e-5
    )


def test_targeted_forms_by_hand():
    logits, labels, target = (
        jnp.asarray([[3.0, 2.0, 0.5, -1.0]]),
        jnp.asarray([0]),
        jnp.asarray([2]),
    )
    gap = 0.5 - 3.0
    expected = {
        "cross_entropy": 0.5 - np.log(np.exp([3.0, 2.0, 0.5, -1.0]).sum()),
        "dlr": gap / (3.0 - (0.5 - 1.0) / 2),
        "margin": gap,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(losses.named(name, target)(logits, labels), [value], rtol=1e-6)


def test_kl_by_hand():
    reference = jnp.log(jnp.asarray([[0.5, 0.5]]))
    found = losses.kl(reference)(jnp.log(jnp.asarray([[0.25, 0.75]])), jnp.asarray([0]))
    np.testing.assert_allclose(found, [0.5 * np.log(2) + 0.5 * np.log(2 / 3)], rtol=1e-5)


def test_targets_are_the_likeliest_other_classes():
    logits = jnp.asarray([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]])
    targets = losses.ranked_targets(logits, jnp.asarray([0, 2]), 2)
    np.testing.assert_array_equal(targets, [[2, 1], [0, 1]])


def test_probability_margin_in_float32_is_that_of_float64():
    rows = [[1.0, 2.0, 0.5], [3.0, 3.0 + 2e-6, -1.0], [3.0, 3.0, 1.0], [90.0, 0.0, -90.0]]
    rows += [[0.0, 200.0, -1.0], [-60.0, -60.5, 60.0], [1e4, 1.0, 0.0]]
    logits, labels = jnp.asarray(rows, jnp.float32), np.asarray([0, 0, 1, 0, 0, 1, 0])
    exact = np.asarray(logits, np.float64)
    shares = np.exp(exact - exact.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    others = np.where(np.eye(3, dtype=bool)[labels], -1, shares)
    rest = np.where(others < 0, 0, shares).sum(axis=1) + others.max(axis=1)  # 1 + p_k - p_y
    np.testing.assert_allclose(1 + others.max(axis=1) - shares[range(7), labels], rest, atol=1e-15)
    with np.errstate(divide="ignore"):  # e^-9999 is none in float64 either
        expected = np.log(rest)
    found, slopes = jax.jit(
        jax.vmap(
            jax.value_and_grad(lambda row, label: probability_margin(row[None], label[None])[0])
        )
    )(logits, jnp.asarray(labels))
    np.testing.assert_allclose(found[:6], expected[:6], rtol=1e-5, atol=3e-7)
    assert found[6] == pytest.approx(np.log(2 + np.exp(-1)) - 9999, abs=0.01)
    positive = np.asarray(losses.misclassified(logits[:6], jnp.asarray(labels[:6])))
    np.testing.assert_array_equal(found[:6] > 3e-7, positive & (np.arange(6) != 2))
    # Sure by e^-90 of its label, a network still has the slope of its logits' difference.
    np.testing.assert_allclose(slopes[3], [-1, 1, 0], atol=1e-6)
    assert np.all(np.isfinite(slopes))
    # Towards a class that is not the likeliest: p_2 - p_0.
    towards = losses.named("probability_margin", jnp.asarray([2]))(logits[:1], jnp.asarray([0]))
    np.testing.assert_allclose(towards, np.log(1 + shares[0, 2] - shares[0, 0])[None], rtol=1e-5)
