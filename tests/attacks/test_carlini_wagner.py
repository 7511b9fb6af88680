"""C&W and EAD: exact distances on a linear model, sparsity, confidence, targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import formats
from robust_jax.attacks import EAD, CarliniWagner, as_view, carlini_wagner, losses
from robust_jax.attacks.carlini_wagner import adam_step, search_constant
from robust_jax.attacks.threat import distance

KEY = jax.random.key(19)
SEARCHES = {"num_searches": 6, "num_steps": 200, "initial_constant": 0.1}


@pytest.mark.parametrize(
    ("attack", "norm", "slack"),
    [
        (CarliniWagner(**SEARCHES), "l2", 0.02),
        (EAD(**SEARCHES, beta=1e-5), "l2", 0.03),
    ],
    ids=["carlini_wagner", "ead"],
)
def test_exact_distance_of_a_linear_model(attack, norm, slack, assert_exact):
    assert_exact(attack, norm, slack)


def test_ead_with_a_large_beta_is_sparse(linear, exact):
    attack = EAD(**SEARCHES, beta=0.02, decision="l1")
    assert [one.within(1.0).threat.norm for one in (attack, EAD())] == ["l1", "l2"]
    adversarial = attack(*linear, key=KEY)
    changed = jnp.sum(jnp.abs(adversarial - linear.images) > 1e-6, axis=(1, 2, 3))
    l2 = CarliniWagner(**SEARCHES)(*linear, key=KEY)
    assert float(changed.mean()) < 8 < 12
    assert float(distance("l1", adversarial, linear.images).mean()) < float(
        distance("l1", l2, linear.images).mean()
    )
    assert jnp.all(distance("l1", adversarial, linear.images) >= 0.999 * exact["l1"])


@pytest.mark.slow
def test_confidence_is_reached(digits):
    attack = CarliniWagner(**SEARCHES, confidence=2.0, learning_rate=0.05)
    adversarial = attack(*digits, key=KEY)
    margins = losses.margin(digits.view(adversarial, key=None), digits.labels)
    assert float(margins.min()) >= 2.0 - 1e-4


@pytest.mark.slow
def test_targeted(digits):
    targets = (digits.labels + 3) % 10
    for attack in (
        CarliniWagner(**SEARCHES, learning_rate=0.05, targeted=True),
        EAD(**SEARCHES, learning_rate=0.05, targeted=True),
    ):
        adversarial = attack(digits.view, digits.images, targets, key=KEY)
        reached = jnp.argmax(digits.view(adversarial, key=None), axis=1) == targets
        assert int(reached.sum()) >= 15


def test_adam_by_hand():
    first, mean, square = adam_step(
        jnp.asarray([1.0]), jnp.asarray([2.0]), jnp.zeros(1), jnp.zeros(1), jnp.asarray(0), 0.1
    )
    # The first step is the rate times the sign.
    np.testing.assert_allclose(first, [0.9], rtol=1e-5)
    second, _, _ = adam_step(first, jnp.asarray([0.0]), mean, square, jnp.asarray(1), 0.1)
    moment = (0.9 * 0.2) / (1 - 0.81)
    scale = np.sqrt(0.999 * 0.004 / (1 - 0.999**2))
    np.testing.assert_allclose(second, [0.9 - 0.1 * moment / scale], rtol=1e-5)


@pytest.mark.parametrize(
    ("least", "num_searches", "repeat", "expected"),
    [
        (3.0, 4, False, 3.25),  # 1 fails, 10, 5.5 and 3.25 succeed
        (3.0, 5, False, 3.25),  # 2.125 fails
        (3.0, 5, True, 3.25),
        (2.5, 3, True, 10.0),  # 5.5 was due
        (1e9, 3, False, None),
        (1e9, 3, True, 1e10),
    ],
)
def test_the_last_search_repeats_the_upper_bound(least, num_searches, repeat, expected):
    """The image says which constant was the last to succeed: later ones are smaller."""
    clean = jnp.full((1, 1, 1, 1), -1.0)

    def run(number, constant):
        found = constant[:, None, None, None]
        return found, jnp.where(constant >= least, -number.astype(jnp.float32), jnp.inf)

    found = search_constant(run, num_searches, 1.0, clean, repeat=repeat)
    assert float(found[0, 0, 0, 0]) == pytest.approx(-1.0 if expected is None else expected)


def test_ten_searches_repeat_as_the_authors_code_does(monkeypatch):
    found, images = [], jnp.zeros((1, 2))

    def record(run, num_searches, initial, like, *, repeat):
        found.append(repeat)
        return like

    monkeypatch.setattr(carlini_wagner, "search_constant", record)
    for attack in (CarliniWagner, EAD):
        for fields in ({}, {"num_searches": 10}, {"num_searches": 10, "repeat": False}):
            attack(**fields).search(lambda number, constant: (images, constant), images)
    assert found == [False, True, False] * 2
    old = {"type": "EAD", "num_searches": 10}
    change = formats.STEPS[2].config
    assert change is not None
    assert change(old) == {**old, "repeat": False}


def test_rejects():
    for make, message in (
        (lambda: CarliniWagner(num_searches=0), "Expected num_searches=0 >= 1"),
        (lambda: CarliniWagner(initial_constant=0.0), "Expected initial_constant=0.0 > 0"),
        (lambda: EAD(beta=-1.0), "Expected beta=-1.0 >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_any_box_is_kept():
    """In float32 the middle of this box and half of its width make more than its end."""
    bounds = (-0.45, 0.78)
    view = as_view(lambda images: jnp.stack([images.sum((1, 2, 3)), 3 - images.sum((1, 2, 3))], 1))
    attack = CarliniWagner(bounds=bounds, num_searches=1, num_steps=3, learning_rate=1.0)
    images = jnp.full((2, 2, 2, 1), 0.78)
    found = attack(view, images, jnp.ones(2, int), key=jax.random.key(0))
    assert float(found.max()) <= np.float32(0.78)
