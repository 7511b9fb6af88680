"""The way of an attack in steps: the loss that it raised, and the images that a call gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import (
    APGD,
    APGDT,
    BIM,
    FGSM,
    MDI2FGSM,
    MIM,
    PGD,
    Square,
    ThreatModel,
    losses,
    trajectory,
)

KEY = jax.random.key(9)
THREAT = ThreatModel("linf", 0.1)
ATTACKS = {
    "fgsm": FGSM(THREAT),
    "mim": MIM(THREAT, num_steps=3),
    "pgd": PGD(THREAT, num_steps=3, num_restarts=2, loss="margin"),
    "last": PGD(THREAT, num_steps=3, keep="last"),
    "mdi2": MDI2FGSM(THREAT, num_steps=2, smallest=0.7),
    "apgd": APGD(THREAT, num_steps=5, num_restarts=2),
    "apgd_t": APGDT(THREAT, num_steps=5, num_targets=2),
}


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("mdi2", "apgd", "apgd_t") else name
        for name in ATTACKS
    ],
)
def test_it_ends_where_a_call_ends(name, digits):
    attack = ATTACKS[name]
    found = trajectory(attack, *digits, key=KEY)
    np.testing.assert_allclose(found.images, attack(*digits, key=KEY), atol=1e-6)
    num_runs = getattr(attack, "num_runs", getattr(attack, "num_restarts", 1))
    num_steps = attack.num_steps if hasattr(attack, "num_steps") else 1
    assert found.losses.shape == (num_runs, num_steps + 1, len(digits.labels))
    assert found.successes.shape == found.losses.shape


def test_losses_are_those_of_the_points_on_the_way(digits):
    found = trajectory(BIM(THREAT, num_steps=3, step_size=0.02), *digits, key=KEY)
    points, view = digits.images, jax.jit(lambda images: digits.view(images, key=None))
    slope_at = jax.jit(jax.grad(lambda images: jnp.sum(loss(images))))

    @jax.jit
    def loss(images):
        return losses.cross_entropy(view(images), digits.labels)

    for step in range(4):
        np.testing.assert_allclose(found.losses[0, step], loss(points), rtol=1e-4, atol=1e-6)
        wrong = np.argmax(view(points), axis=1) != np.asarray(digits.labels)
        np.testing.assert_array_equal(found.successes[0, step], wrong)
        moved = points + 0.02 * np.sign(slope_at(points))
        points = THREAT.project(moved, digits.images)
    np.testing.assert_allclose(found.images, jnp.clip(points, 0, 1), atol=0.021)


def test_only_attacks_in_steps_have_one(digits):
    with pytest.raises(ValueError, match="Expected attack=Square to be one in steps"):
        trajectory(Square(THREAT), *digits, key=KEY)
