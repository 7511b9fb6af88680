"""Threat models, views and the checks of every call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from robust_jax import attacks, rng
from robust_jax.attacks import PGD, ThreatModel, base, losses

KEY = jax.random.key(1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("linf", -0.1), r"Expected eps=-0.1 >= 0"),
        (("linf", 8.0), r"Expected eps=8.0 <= 1.0, the width of bounds"),
        (("linf", float("nan")), r"Expected eps=nan >= 0"),
        (("l2", 0.1, (1.0, 0.0)), r"Expected bounds=\(1.0, 0.0\)"),
    ],
)
def test_threat_model_rejects(fields, message):
    with pytest.raises(ValueError, match=message):
        ThreatModel(*fields)


def test_l2_radius_beyond_the_diagonal_is_an_error(digits):
    with pytest.raises(ValueError, match=r"Expected eps=9.0 <= 8, the diagonal"):
        PGD(ThreatModel("l2", 9.0))(digits.view, digits.images, digits.labels, key=KEY)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_steps": 0}, "Expected num_steps=0 >= 1"),
        ({"step_size": -1.0}, "Expected step_size=-1.0 > 0"),
        ({"num_restarts": 0}, "Expected num_restarts=0 >= 1"),
        ({"num_restarts": 2, "random_start": False}, "every restart would be the same"),
    ],
)
def test_pgd_rejects(fields, message):
    with pytest.raises(ValueError, match=message):
        PGD(ThreatModel("linf", 0.1), **fields)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThreatModel("l1", 0.1),
        lambda: PGD(ThreatModel("linf", 0.1), loss="hinge"),
        lambda: PGD(ThreatModel("linf", 0.1), keep="first"),
        lambda: attacks.eot(lambda images, *, key: images, 2, average="votes"),
    ],
)
def test_names_are_checked(make):
    # The type checker of the tests is asked first; without it the ValueError says the same.
    with pytest.raises((ValueError, TypeCheckError), match=r"l1|hinge|first|votes"):
        make()


def test_projection_by_hand():
    clean = jnp.asarray([[0.5, 0.9], [0.5, 0.5]])
    far = jnp.asarray([[0.0, 1.5], [0.8, 0.9]])
    np.testing.assert_allclose(
        ThreatModel("linf", 0.2).project(far, clean), [[0.3, 1.0], [0.7, 0.7]], atol=1e-7
    )
    np.testing.assert_allclose(
        ThreatModel("l2", 0.05).project(far, clean)[1], [0.53, 0.54], atol=1e-6
    )
    np.testing.assert_allclose(
        ThreatModel("linf", 0.2).project(far, clean, eps=jnp.asarray([0.0, 0.1])),
        [[0.5, 0.9], [0.6, 0.6]],
        atol=1e-7,
    )


def test_samples_fill_the_ball():
    clean = jnp.full((4000, 2), 0.5)
    keys = rng.per_example(KEY, jnp.arange(4000))
    linf = ThreatModel("linf", 0.2).sample(clean, keys) - clean
    np.testing.assert_allclose(jnp.std(linf), 0.2 / np.sqrt(3), rtol=0.03)
    l2 = ThreatModel("l2", 0.2).sample(clean, keys) - clean
    radius = jnp.linalg.norm(l2, axis=1)
    # Uniform in a disc: the squared radius is uniform.
    np.testing.assert_allclose(jnp.mean(radius**2), 0.2**2 / 2, rtol=0.03)


def test_l2_direction_survives_tiny_gradients():
    gradient = jnp.asarray([[3e-30, 4e-30], [0.0, 0.0]])
    np.testing.assert_allclose(
        ThreatModel("l2", 0.1).steepest(gradient), [[0.6, 0.8], [0, 0]], rtol=1e-6
    )


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


def test_images_and_labels_are_checked(digits):
    attack = PGD(ThreatModel("linf", 0.1), num_steps=1)
    images, labels = digits.images, digits.labels
    with pytest.raises(ValueError, match=r"normalisation belongs inside the view"):
        attack(digits.view, images * 255, labels, key=KEY)
    with pytest.raises(ValueError, match="to be floating"):
        attack(digits.view, jnp.zeros((16, 8, 8, 1), jnp.uint8), labels, key=KEY)
    with pytest.raises(ValueError, match=r"Expected labels in \[0, 10\)"):
        attack(digits.view, images, labels + 10, key=KEY)
    with pytest.raises(ValueError, match=r"labels.shape=\(3,\) to be \(16,\)"):
        attack(digits.view, images, labels[:3], key=KEY)
    with pytest.raises(ValueError, match="to be integer"):
        attack(digits.view, images, labels.astype(jnp.float32), key=KEY)
    with pytest.raises(ValueError, match="found probabilities"):
        attack(lambda x, key: jax.nn.softmax(digits.view(x, key=key)), images, labels, key=KEY)
    with pytest.raises(ValueError, match="finite logits"):
        attack(lambda x, key: digits.view(x, key=key) * jnp.inf, images, labels, key=KEY)
    with pytest.raises(ValueError, match="the view's shape"):
        attack(lambda x, key: digits.view(x, key=key)[:, 0], images, labels, key=KEY)


def test_a_plain_function_and_a_bound_view_agree(digits):
    attack = PGD(ThreatModel("linf", 0.1), num_steps=2)
    bound = attack(digits.view, digits.images, digits.labels, key=KEY)
    plain = attack(
        attacks.as_view(lambda x: digits.view(x, key=None)),
        digits.images,
        digits.labels,
        key=KEY,
    )
    np.testing.assert_allclose(plain, bound, atol=1e-6)


def test_other_weights_compile_nothing_anew(digits):
    attack = PGD(ThreatModel("linf", 0.11), num_steps=2)
    attack(digits.view, digits.images, digits.labels, key=KEY)
    compiled = base._run._cache_size()
    other = jax.tree.map(lambda leaf: leaf * 2, digits.view)
    attack(other, digits.images, digits.labels, key=jax.random.key(9))
    assert base._run._cache_size() == compiled


def test_over_dataset_is_one_program_and_any_batch_size(digits):
    attack = PGD(ThreatModel("linf", 0.12), num_steps=2)
    compiled = base._run._cache_size()
    seven = attacks.over_dataset(attack, *digits, key=KEY, batch_size=7, progress=False)
    assert base._run._cache_size() == compiled + 1
    whole = attack(*digits, key=KEY)
    np.testing.assert_allclose(seven, whole, atol=2e-5)
    empty = attacks.over_dataset(
        attack, digits.view, digits.images[:0], digits.labels[:0], key=KEY, batch_size=7
    )
    assert empty.shape == (0, 8, 8, 1)


def test_high_confidence_is_the_goal_that_is_asked_for(digits):
    threat = ThreatModel("linf", 0.5)
    attack = PGD(threat, num_steps=40, min_probability=0.9)
    adversarial = attack(*digits, key=KEY)
    logits = digits.view(adversarial, key=None)
    sure = jnp.max(jax.nn.softmax(logits), axis=1) >= 0.9
    wrong = jnp.argmax(logits, axis=1) != digits.labels
    assert int((sure & wrong).sum()) >= 12
    with pytest.raises(ValueError, match=r"Expected min_probability=1.0 in \[0, 1\)"):
        PGD(threat, min_probability=1.0)
