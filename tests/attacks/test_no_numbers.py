"""NaN logits: an error on clean images, a success on adversarial ones, and never NaN pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import voting
from robust_jax.attacks import (
    APGD,
    FGSM,
    SPSA,
    AutoAttack,
    DeepFool,
    Square,
    ThreatModel,
    as_view,
    losses,
    over_dataset,
)

KEY = jax.random.key(2)
THREAT = ThreatModel("linf", 0.1)
WEIGHTS = jax.random.normal(jax.random.key(0), (6, 3))
IMAGES = 0.5 + 0.02 * jax.random.uniform(jax.random.key(1), (6, 2, 3, 1))


def linear(images):
    return images.reshape(len(images), -1) @ WEIGHTS


def no_numbers_far_away(images):
    """Finite around .5 only: an overflow, say."""
    far = jnp.max(jnp.abs(images - 0.5), axis=(1, 2, 3)) > 0.05
    return jnp.where(far[:, None], jnp.nan, linear(images))


LABELS = jnp.argmax(linear(IMAGES), axis=1)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    "attack",
    [
        FGSM(THREAT),
        SPSA(THREAT, num_steps=2, num_samples=2),
        DeepFool(),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_pixels_are_numbers(attack):
    view = as_view(lambda z: linear(z) * jnp.sqrt(jnp.max(jnp.abs(z - 0.5)) - 0.03))
    with pytest.raises(ValueError, match=r"found NaN on images \[0, 1, 2, 3, 4, 5\]"):
        attack(view, IMAGES, LABELS, key=KEY)
    traced = jax.jit(lambda images: attack(view, images, LABELS, key=KEY))
    assert np.isfinite(traced(IMAGES)).all()  # there values are the caller's
    assert np.isfinite(attack(as_view(no_numbers_far_away), IMAGES, LABELS, key=KEY)).all()


def test_an_error_names_images():
    broken = IMAGES.at[4].set(0.9)
    view = as_view(no_numbers_far_away)
    with pytest.raises(ValueError, match=r"found NaN on images \[4\]"):
        FGSM(THREAT)(view, broken, LABELS, key=KEY)
    with pytest.raises(ValueError, match=r"found NaN on images \[14\]"):
        FGSM(THREAT)(view, broken, LABELS, key=KEY, index=jnp.arange(10, 16))
    with pytest.raises(ValueError, match=r"found NaN on images \[4\]"):
        over_dataset(FGSM(THREAT), view, broken, LABELS, key=KEY, batch_size=3, progress=False)
    many = jnp.concatenate([IMAGES, IMAGES, broken])
    suite = AutoAttack(THREAT, version="custom", attacks=(APGD(THREAT, num_steps=2),))
    with pytest.raises(ValueError, match=r"found NaN on images \[16\]"):
        suite.report(view, many, jnp.tile(LABELS, 3), key=KEY)


def test_an_image_without_numbers_has_fallen():
    suite = AutoAttack(THREAT, version="custom", attacks=(Square(THREAT, num_queries=5),))
    report = suite.report(as_view(no_numbers_far_away), IMAGES, LABELS, key=KEY)
    assert not report.standing.any()
    assert np.isfinite(report.images).all()


def test_decisions():
    scores = jnp.array([[0.0, 1.0], [jnp.nan, 1.0], [jnp.nan, jnp.nan], [1.0, 1.0]])
    assert losses.decided(scores).tolist() == [1, -1, -1, 0]
    assert losses.misclassified(scores, jnp.array([1, 1, 0, 0])).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("vote", ["mean_probability", "majority_lowest_class", "borda"])
def test_a_member_without_numbers_cannot_vote(vote):
    members = jnp.zeros((3, 2, 2)).at[0, 1, 0].set(jnp.nan)
    assert losses.decided(voting.scores(members, vote)).tolist() == [0, -1]
