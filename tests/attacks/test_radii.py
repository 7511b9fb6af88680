"""Several radii: one program, the same bits as with the radius in it, and numbers that fall."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import (
    APGD,
    APGDT,
    FABT,
    NES,
    PGD,
    AutoAttack,
    Averaged,
    Boundary,
    FrugalAttack,
    Square,
    Suite,
    ThreatModel,
    bind,
    over_radii,
)
from robust_jax.attacks.base import perturbed
from tests.compilations import count_compilations

KEY = jax.random.key(3)
IMAGES = jax.random.uniform(jax.random.key(0), (6, 6, 6, 1))
WEIGHTS = jax.random.normal(jax.random.key(1), (36, 5))
EPS = (0.001, 0.02, 0.11)


def bent(variables, images, *, key):
    del key
    return jnp.sin(3 * images.reshape(len(images), -1)) @ variables["weights"]


VIEW = bind(bent, {"weights": WEIGHTS})
LABELS = jnp.argmax(VIEW(IMAGES, key=None), axis=1)
KINDS = {
    "pgd": functools.partial(PGD, num_steps=7),
    "pgd_of_a_step": functools.partial(PGD, num_steps=3, step_size=0.0123),
    "nes": functools.partial(NES, num_steps=3, num_samples=4),
    "apgd": functools.partial(APGD, num_steps=12),
    "apgd_t": functools.partial(APGDT, num_steps=8, num_targets=2),
    "fab_t": functools.partial(FABT, num_steps=5, num_targets=2),
    "square": functools.partial(Square, num_queries=30),
    "averaged": lambda threat: Averaged(threat, PGD(threat, num_steps=3), num_samples=2),
}
MEMBERS = ("apgd", "apgd_t", "fab_t", "square")


def of_kinds(*quick):
    return [pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", of_kinds("pgd", "apgd"))
def test_a_radius_as_an_argument_gives_the_bits_of_one_in_the_program(name, norm):
    for eps in EPS:
        attack = KINDS[name](ThreatModel(norm, eps))
        given = attack.prepared(VIEW, IMAGES, LABELS, key=KEY)
        constant = jax.jit(functools.partial(perturbed, attack))(given)
        np.testing.assert_array_equal(attack(VIEW, IMAGES, LABELS, key=KEY), constant)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("name", of_kinds("pgd", "pgd_of_a_step", "square"))
def test_another_radius_compiles_nothing(name):
    threats = [ThreatModel("l2", eps) for eps in (0.05, 1.0, 0.0)]
    found = [KINDS[name](threats[0])(VIEW, IMAGES, LABELS, key=KEY)]

    def others():
        for threat in threats[1:]:
            found.append(KINDS[name](threat)(VIEW, IMAGES, LABELS, key=KEY))

    assert count_compilations(others) == 0
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], IMAGES)


@pytest.mark.slow
def test_another_step_and_a_traced_radius():
    threat = ThreatModel("linf", 0.1)
    long, short = (PGD(threat, num_steps=4, step_size=length) for length in (0.05, 0.01))
    far = long(VIEW, IMAGES, LABELS, key=KEY)
    near = []
    assert count_compilations(lambda: near.append(short(VIEW, IMAGES, LABELS, key=KEY))) == 0
    assert not np.array_equal(near[0], far)
    # An attack is a pytree: it may be an argument of a caller's function, and several at once.
    run = jax.jit(lambda attack: attack(VIEW, IMAGES, LABELS, key=KEY))
    np.testing.assert_array_equal(run(short), near[0])
    both = jax.vmap(run)(jax.tree.map(lambda *leaves: jnp.stack(leaves), long, short))
    np.testing.assert_allclose(both, [far, near[0]], atol=1e-6)
    assert jax.tree.map(lambda leaf: leaf, long) == long
    assert hash(jax.tree.map(lambda leaf: leaf, long)) == hash(long)


def suites(threat):
    members = (APGD(threat, num_steps=5), Square(threat, num_queries=20))
    return {
        "suite": Suite(threat, attacks=(*members, Boundary(num_steps=20, start="noise"))),
        "autoattack": AutoAttack(threat, version="custom", attacks=members, batch_size=6),
        "frugal": FrugalAttack(
            threat, num_steps=3, num_near=2, num_untargeted_steps=0, num_targets=0, batch_size=6
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["apgd", *(pytest.param(n, marks=pytest.mark.slow) for n in suites(ThreatModel("l2", 0.1)))],
)
def test_over_radii(name):
    threat = ThreatModel("l2", 0.3)
    attack = {**suites(threat), "apgd": APGD(threat, num_steps=5)}[name]
    labels = LABELS.at[0].set((LABELS[0] + 1) % 5)
    eps = [0.0, 0.05, 0.1, 0.2]
    found = over_radii(attack, VIEW, IMAGES, labels, eps=eps, key=KEY, batch_size=6)
    assert found.images.shape == (4, *IMAGES.shape)
    assert 0 < found.standing[-1].sum() < found.standing[1].sum() <= found.standing[0].sum() == 5
    for number, radius in enumerate(eps):
        far = threat.distance(jnp.asarray(found.images[number]), IMAGES)
        assert float(far.max()) <= radius + 1e-6
        right = np.argmax(VIEW(jnp.asarray(found.images[number]), key=None), axis=1) == labels
        np.testing.assert_array_equal(right, found.standing[number])
        # Whoever stands was attacked as by the attack alone: none falls to that who stands here.
        alone = attack.with_eps(radius)(VIEW, IMAGES, labels, key=KEY)
        stands = np.argmax(VIEW(alone, key=None), axis=1) == labels
        assert not np.any(found.standing[number] & ~stands)
    for before, after, cost in zip(range(3), range(1, 4), found.passes[1:], strict=True):
        fallen = ~found.standing[before]
        np.testing.assert_array_equal(found.images[after][fallen], found.images[before][fallen])
        np.testing.assert_array_equal(cost.forward > 0, ~fallen)
    np.testing.assert_array_equal(found.images[:, 0], np.stack([IMAGES[0]] * 4))


@pytest.mark.slow
def test_over_radii_compiles_once_and_refuses():
    attack = PGD(ThreatModel("linf", 0.1), num_steps=3)

    def run(*eps):
        over_radii(attack, VIEW, IMAGES, LABELS, eps=eps, key=KEY, batch_size=4)

    run(0.01)
    assert count_compilations(lambda: run(0.012, 0.02, 0.03)) == 0
    rises, large = "to be radii that rise", "Expected eps=2.0"
    for eps, message in (((), rises), ((0.1, 0.1), rises), ((0.1, 2.0), large)):
        with pytest.raises(ValueError, match=message):
            run(*eps)
    empty = over_radii(attack, VIEW, IMAGES[:0], LABELS[:0], eps=[0.1], key=KEY)
    assert (empty.images.shape, empty.standing.shape) == ((1, 0, 6, 6, 1), (1, 0))
    target = PGD(ThreatModel("linf", 0.1), num_steps=10, targeted=True)
    goal = (LABELS + 1) % 5
    reached = over_radii(target, VIEW, IMAGES, goal, eps=[0.01, 0.5], key=KEY)
    found = jnp.argmax(VIEW(jnp.asarray(reached.images[1]), key=None), axis=1)
    np.testing.assert_array_equal(found != goal, reached.standing[1])
    assert (found == goal).sum() > 0
