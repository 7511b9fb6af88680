"""The transfer matrix of members that look at different pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import analysis
from robust_jax.attacks import FGSM, ThreatModel, as_view

KEY = jax.random.key(0)
# Member 0 decides by the first pixel, member 1 by the second, 2 by both: class 1 above one half.
WEIGHTS = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
IMAGES = np.array([[0.6, 0.65], [0.4, 0.35], [0.9, 0.6], [0.6, 0.45]], np.float32)
LABELS = np.array([1, 0, 1, 1])


def members(images):
    score = (images - 0.5) @ jnp.asarray(WEIGHTS.T)
    return jnp.moveaxis(jnp.stack([-score, score], axis=-1), 1, 0)


def found(eps=0.2):
    view = as_view(members)
    attack = FGSM(ThreatModel("linf", eps))
    return analysis.transfer(
        attack, analysis.member_views(view, 3), view, jnp.asarray(IMAGES), jnp.asarray(LABELS),
        key=KEY, vote="majority_lowest_class",
    )  # fmt: skip


def test_matrix_by_hand():
    result = found()
    np.testing.assert_array_equal(result.clean, [[True] * 4, [True, True, True, False], [True] * 4])
    # The attack on a member moves its pixels by 0.2 against the label, and no other.
    for source in range(3):
        sign = np.where(LABELS == 1, -1, 1)[:, None] * np.sign(WEIGHTS[source])[None]
        score = (np.clip(IMAGES + 0.2 * sign, 0, 1) - 0.5) @ WEIGHTS.T
        right = ((score > 0) == (LABELS == 1)[:, None]).T
        np.testing.assert_array_equal(result.members[source], right)
        np.testing.assert_array_equal(result.ensemble[source], right.sum(axis=0) >= 2)
    # The examples of 0 do nothing to 1 and the other way round.
    np.testing.assert_array_equal(result.members[0, 1], result.clean[1])
    np.testing.assert_array_equal(result.members[1, 0], result.clean[0])


def test_success_rates_count_examples_that_all_get_right():
    """The last example is wrong clean for member 1: three count."""
    rates = analysis.success_rates(found())
    assert rates.shape == (3, 4)
    np.testing.assert_allclose(rates[0], [2 / 3, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rates[2], [2 / 3, 1, 2 / 3, 2 / 3], atol=1e-6)
    np.testing.assert_allclose(analysis.success_rates(found(0.0)), np.zeros((3, 4)))


def test_members_views_are_the_members_and_compile_once():
    traced = []

    def counted(images):
        traced.append(1)
        return members(images)

    views = analysis.member_views(as_view(counted), 3)
    run = jax.jit(lambda view, images: view(images, key=KEY))
    images = jnp.asarray(IMAGES)
    for number, view in enumerate(views):
        np.testing.assert_allclose(run(view, images), members(images)[number])
    assert len(traced) == 1


def test_a_coin_is_fooled_by_no_attack():
    """Members that are random decide on clean and adversarial images by the same draws."""

    def coins(images, *, key):
        return jax.random.normal(key, (3, len(images), 2))

    source = as_view(lambda images: members(images)[0])
    images, labels = jnp.full((64, 2), 0.5), jnp.zeros(64, jnp.int32)
    attack = FGSM(ThreatModel("linf", 0.1))
    result = analysis.transfer(attack, [source], coins, images, labels, key=KEY)
    assert 0.2 < result.clean.mean() < 0.8
    np.testing.assert_array_equal(result.members[0], result.clean)
    assert analysis.success_rates(result)[0, :3].tolist() == [0, 0, 0]


def test_no_example_counts():
    nobody = analysis.Transfer(
        jnp.zeros((2, 3), bool), jnp.zeros((2, 2, 3), bool), jnp.zeros((2, 3), bool)
    )
    assert np.isnan(analysis.success_rates(nobody)).all()


def test_other_networks_as_sources():
    result = analysis.transfer(
        FGSM(ThreatModel("linf", 0.2)), [as_view(lambda images: members(images)[2])],
        as_view(members), jnp.asarray(IMAGES), jnp.asarray(LABELS), key=KEY,
    )  # fmt: skip
    assert result.members.shape == (1, 3, 4)
    np.testing.assert_array_equal(result.members[0], found().members[2])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_ensemble_decides_by_the_vote_named(seed):
    logits = jax.random.normal(jax.random.key(seed), (3, 4, 2))
    view = as_view(lambda images: logits + 0 * images.sum())
    result = analysis.transfer(
        FGSM(ThreatModel("linf", 0.0)), analysis.member_views(view, 3), view,
        jnp.asarray(IMAGES), jnp.asarray(LABELS), key=KEY, vote="mean_logit",
    )  # fmt: skip
    right = np.asarray(logits).mean(axis=0).argmax(axis=-1) == LABELS
    np.testing.assert_array_equal(result.ensemble, np.stack([right] * 3))


@pytest.mark.usefixtures("without_type_checks")
def test_what_are_no_members_is_said():
    view, given = as_view(members), (jnp.asarray(IMAGES), LABELS.tolist())
    attack = FGSM(ThreatModel("linf", 0.1))
    with pytest.raises(ValueError, match="Expected num_members=4 to be 3, the view's"):
        analysis.member_views(view, 4)[3](given[0], key=KEY)
    with pytest.raises(ValueError, match=r"Expected sources=\[\] to hold"):
        analysis.transfer(attack, [], view, *given, key=KEY)
    one = analysis.member_views(view, 3)[0]
    with pytest.raises(ValueError, match=r"Expected member_logits.shape=\(4, 2\) to be \[m b c\]"):
        analysis.transfer(attack, [one], one, *given, key=KEY)
