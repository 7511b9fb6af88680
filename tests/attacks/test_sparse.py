"""JSMA against a plain loop over all pairs, its budget, and what failure gives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import JSMA
from robust_jax.attacks.threat import distance

KEY = jax.random.key(37)


def by_a_loop(image, weights, target, theta, gamma, saliency):
    """The search on logits (image - .5) @ weights, pair by pair; None where it fails."""
    point, changed = image.astype(np.float64), set()
    alpha = np.sign(theta) * weights[:, target]
    beta = np.sign(theta) * (weights.sum(axis=1) - weights[:, target])
    while np.argmax((point - 0.5) @ weights) != target:
        best, largest = None, -np.inf
        for p, q in itertools.combinations(range(len(image)), 2):
            full = any(abs(point[i] - (theta > 0)) < 1e-9 for i in (p, q))
            if full or len(changed | {p, q}) > int(gamma * len(image)):
                continue
            rise, fall = alpha[p] + alpha[q], -(beta[p] + beta[q])
            if saliency == "pair" and not (rise > 0 and fall > 0):
                continue
            value = rise * fall if saliency == "pair" else rise
            if value > largest:
                best, largest = (p, q), value
        if best is None:
            return None
        point[list(best)] = np.clip(point[list(best)] + theta, 0, 1)
        changed |= set(best)
    return point


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("saliency", ["pair", "target"])
@pytest.mark.parametrize(("theta", "gamma"), [(0.1, 1.0), (0.3, 0.34), (-0.2, 0.5)])
def test_a_linear_model_is_attacked_as_by_a_loop(saliency, theta, gamma):
    weights = jax.random.normal(jax.random.key(3), (12, 3))
    images = jax.random.uniform(jax.random.key(4), (24, 2, 2, 3))
    labels = (jnp.argmax((images.reshape(24, 12) - 0.5) @ weights, axis=1) + 1) % 3

    def view(images, *, key):
        del key
        return (images.reshape(len(images), 12) - 0.5) @ weights

    attack = JSMA(theta=theta, gamma=gamma, saliency=saliency)
    found = np.asarray(attack(view, images, labels, key=KEY)).reshape(24, 12)
    numbers = np.asarray(weights, np.float64)
    expected = [
        by_a_loop(image, numbers, target, theta, gamma, saliency)
        for image, target in zip(np.asarray(images).reshape(24, 12), labels.tolist(), strict=True)
    ]
    failed = np.array([point is None for point in expected])
    assert failed.sum() < 20
    clean = np.asarray(images).reshape(24, 12)
    for row, point in enumerate(expected):
        np.testing.assert_allclose(found[row], clean[row] if point is None else point, atol=1e-5)


def as_art(image, weights, target, theta, gamma, max_iterations):
    """ART 1.1's search in NumPy, on the same logits; with a largest number of pairs PDD's copy."""
    point, changed = image.astype(np.float64), np.zeros(len(image), bool)
    room = point < 1 if theta > 0 else point > 0
    iterations = 0
    while np.argmax((point - 0.5) @ weights) != target and iterations < max_iterations:
        saliency = np.where(room, np.sign(theta) * weights[:, target], -np.inf)
        pair = np.argsort(-saliency, kind="stable")[:2]
        point[pair] = np.clip(point[pair] + theta, 0, 1)
        changed[pair] = True
        room &= np.abs(point - (theta > 0)) > 1e-9
        iterations += 1
        counted = max_iterations == np.inf and changed.mean() > gamma
        if counted or not room.any():
            break
    return point


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("theta", "gamma"), [(0.1, 0.34), (-0.2, 0.5), (0.4, 1.0)])
def test_the_toolbox_and_its_copy_are_other_attacks(theta, gamma):
    weights = jax.random.normal(jax.random.key(3), (12, 3))
    images = jax.random.uniform(jax.random.key(4), (24, 2, 2, 3))
    clean, numbers = np.asarray(images).reshape(24, 12), np.asarray(weights, np.float64)
    predicted = np.argmax((clean - 0.5) @ numbers, axis=1)
    labels = (predicted + 1) % 3

    def view(images, *, key):
        del key
        return (images.reshape(len(images), 12) - 0.5) @ weights

    decisions = {}
    for name, attack, most in (
        ("paper", JSMA(theta=theta, gamma=gamma), None),
        ("art", JSMA.art(theta, gamma), np.inf),
        ("copy", JSMA.art_in_pdd(theta, gamma), int(gamma * 12 / 2)),
    ):
        found = np.asarray(attack(view, images, jnp.asarray(labels), key=KEY)).reshape(24, 12)
        decisions[name] = np.argmax((found - 0.5) @ numbers, axis=1)
        if most is not None:
            expected = [as_art(image, numbers, target, theta, gamma, most)
                        for image, target in zip(clean, labels.tolist(), strict=True)]  # fmt: skip
            np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    # A search that failed in the toolbox leaves its changes; the paper's leaves the clean image.
    failed = decisions["paper"] != labels
    np.testing.assert_array_equal(decisions["paper"][failed], predicted[failed])
    reached = [(decisions[name] == labels).sum() for name in ("copy", "art")]
    assert reached[0] <= reached[1]


@pytest.mark.slow
def test_a_share_is_passed_by_one_pair_at_most(digits):
    targets = (digits.labels + 1) % 10
    changed = {
        name: np.asarray(distance("l0", attack(digits.view, digits.images, targets, key=KEY),
                                  digits.images))
        for name, attack in (
            ("paper", JSMA(theta=1.0, gamma=0.1)),
            ("art", JSMA.art(theta=1.0, gamma=0.1)),
            ("copy", JSMA.art_in_pdd(theta=1.0, gamma=0.1)),
        )
    }  # fmt: skip
    # 6 of 64 features are less than a tenth, 7 more: the toolbox changes 8, then stops.
    assert [found.max() for found in changed.values()] == [6, 8, 6]


def test_two_classes_by_hand():
    # Z = (x . w, -x . w): alpha = -beta, so the two largest weights of the target are moved.
    weights = jnp.asarray([1.0, 4.0, 2.0, -5.0, 0.5])

    def view(images, *, key):
        del key
        score = (images - 0.5) @ weights
        return jnp.stack([score, -score], axis=1)

    images, gap = jnp.full((1, 5), 0.5).at[0, 0].set(0.0), 0.5
    found = JSMA(theta=0.05, gamma=0.4)(view, images, jnp.asarray([0]), key=KEY)
    moves = int(np.ceil(gap / (0.05 * (4 + 2))))
    np.testing.assert_allclose(
        found, images + 0.05 * moves * jnp.asarray([[0.0, 1, 1, 0, 0]]), rtol=1e-5
    )


@pytest.mark.slow
def test_the_budget_holds_and_few_candidates_do(digits):
    targets = (digits.labels + 1) % 10
    attack = JSMA(theta=1.0, gamma=0.2)
    found = attack(digits.view, digits.images, targets, key=KEY)
    reached = jnp.argmax(digits.view(found, key=None), axis=1) == targets
    changed = distance("l0", found, digits.images)
    assert 4 <= int(reached.sum()) < 16
    assert float(changed.max()) == 12  # of 64
    # Where the search fails, the clean image is returned.
    np.testing.assert_array_equal(changed > 0, reached)
    few = JSMA(theta=1.0, gamma=0.2, num_candidates=16)
    found_few = few(digits.view, digits.images, targets, key=KEY)
    np.testing.assert_array_equal(found_few, found)


def test_rejects(digits):
    for fields, message in (
        ({"targeted": False}, "Expected targeted=False to be True"),
        ({"theta": 0.0}, r"Expected theta=0.0 in \[-1.0, 1.0\] and not 0"),
        ({"gamma": 1.5}, r"Expected gamma=1.5 in \(0, 1\]"),
        ({"num_candidates": 1}, "Expected num_candidates=1 >= 2"),
    ):
        with pytest.raises(ValueError, match=message):
            JSMA(**fields)
    with pytest.raises(ValueError, match=r"Expected gamma=0\.01 to allow two of the 64 features"):
        JSMA(gamma=0.01)(*digits, key=KEY)
    with pytest.raises(ValueError, match=r"Expected eps=0\.1 to be a whole number of places"):
        JSMA().within(0.1)
