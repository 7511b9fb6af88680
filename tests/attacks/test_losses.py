"""Losses that attacks raise, by hand."""

import jax.numpy as jnp
import numpy as np

from robust_jax.attacks import losses


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
