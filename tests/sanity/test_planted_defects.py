"""Defects of a model or an attack, planted one by one: each raises its flag, a sound one none."""

import jax
import jax.numpy as jnp
import pytest

from robust_jax import evaluation, sanity, sharding
from robust_jax.attacks import FGSM, PGD, Square, ThreatModel, losses
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.methods import Method
from robust_jax.protocol import AttackRun, Evaluation, Judge
from robust_jax.sanity.draws import enough_draws

RADII = (0.1, 0.2)
HIDDEN = 64


def network(params, images):
    hidden = jax.nn.gelu(images.reshape(images.shape[0], -1) @ params["w1"])
    return hidden @ params["w2"]


def method(view, *, stochastic=False, **views):
    """A method whose every rule is one view."""
    nothing = lambda **_: {}  # noqa: E731
    return Method(nothing, nothing, view, {"deployed": view, **views}, stochastic)


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(Digits()))


@pytest.fixture(scope="module")
def params(data):
    """An adversarially trained network: PGD inside the step, as Madry et al."""
    images = jnp.asarray(data.train.arrays[0] / 255, jnp.float32)
    labels = jnp.asarray(data.train.arrays[1], jnp.int32)
    key = jax.random.key(0)
    start = {
        "w1": jax.random.normal(jax.random.fold_in(key, 1), (64, HIDDEN)) / 8,
        "w2": jax.random.normal(jax.random.fold_in(key, 2), (HIDDEN, 10)) / 8,
    }

    def loss(params, images):
        return jnp.mean(losses.cross_entropy(network(params, images), labels))

    @jax.jit
    def train(params):
        def step(carry, _):
            params, velocity = carry
            attacked = images
            for _ in range(3):
                slope = jax.grad(loss, argnums=1)(params, attacked)
                moved = jnp.clip(attacked + 0.05 * jnp.sign(slope), images - 0.1, images + 0.1)
                attacked = jnp.clip(moved, 0, 1)
            slopes = jax.grad(loss)(params, attacked)
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, slopes)
            return (jax.tree.map(lambda p, v: p - 0.2 * v, params, velocity), velocity), None

        still = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(step, (params, still), None, length=200)[0][0]

    return train(start)


def flags(found_method, params, data, **run):
    """The names of the flags that an evaluation of the method raises."""
    attacks = {}
    for eps in RADII:
        threat = ThreatModel("linf", eps)
        attacks[f"pgd_{eps}"] = AttackRun(PGD(threat, num_steps=20), **run)
    attacks["square"] = AttackRun(Square(ThreatModel("linf", 0.2), num_queries=300))
    config = Evaluation(attacks=attacks, num_examples=256, batch_size=256)
    evaluator = evaluation.make_evaluator(found_method, config, sharding.make_mesh(1))
    records = evaluation.evaluate(evaluator, params, data.test)
    images = jnp.asarray(data.test.arrays[0][:128] / 255, jnp.float32)
    labels = jnp.asarray(data.test.arrays[1][:128], jnp.int32)
    found = sanity.check_records(records, config)
    found += sanity.probe(found_method, params, images, labels, config)
    assert all(finding.next_step for finding in found if finding.status == "flag")
    return {finding.check for finding in found if finding.status == "flag"}


def sound(params, images, *, key=None):
    return network(params, images)


def saturated(params, images, *, key=None):
    return 1e4 * network(params, images)


def rounded(params, images, *, key=None):
    return network(params, jnp.round(4 * images) / 4)


def shattered(params, images, *, key=None):
    return network(params, images + 1e-4 * jnp.sin(1e7 * images))


def secretly_random(params, images, *, key=None):
    if key is None:
        return network(params, images)
    return network(params, images + 0.2 * jax.random.normal(key, images.shape))


def probabilities(params, images, *, key=None):
    return jax.nn.softmax(network(params, images))


def masked(params, images, *, key):
    """Sees seven random pixels of ten."""
    kept = jax.random.bernoulli(key, 0.7, images.shape[1:])
    return network(params, jnp.where(kept[None], images, 0))


def masked_at_one_key(params, images, *, key=None):
    return masked(params, images, key=jax.random.key(5))


WHITE_BOX = "white box beats black box"
CASES = {
    "saturated": (saturated, {"view 'deployed' has gradients", WHITE_BOX}),
    "rounded": (rounded, {"view 'deployed' has gradients", "eps = 1 reaches chance", WHITE_BOX}),
    "shattered": (shattered, {WHITE_BOX}),
    "secretly random": (secretly_random, {"randomness as declared"}),
    "probabilities": (probabilities, {"view 'deployed' gives logits"}),
}


def test_a_sound_network_raises_none(params, data):
    assert flags(method(sound), params, data) == set()


@pytest.mark.parametrize("name", CASES)
def test_planted_defect(name, params, data):
    view, expected = CASES[name]
    assert expected <= flags(method(view), params, data)


def test_an_attack_on_draws_that_the_judge_never_sees(params, data):
    found = method(masked, stochastic=True, one_key=masked_at_one_key)
    assert "attacked view and judge agree" in flags(found, params, data, view="one_key")
    assert "attacked view and judge agree" not in flags(found, params, data, eot_samples=20)


def drowned(params, images, *, key):
    """One noise for the batch, so loud that a single draw's gradient says little."""
    return network(params, images + 0.5 * jax.random.normal(key, images.shape[1:])[None])


def test_draws_that_do_not_suffice(params, data):
    """One draw of a very noisy model raises the flag; 16 do not."""
    images = jnp.asarray(data.test.arrays[0] / 255, jnp.float32)
    labels = jnp.asarray(data.test.arrays[1], jnp.int32)

    def found(rule, **run):
        # A single step: many steps average over their own draws.
        runs = {"fgsm": AttackRun(FGSM(ThreatModel("linf", 0.1)), **run)}
        wanted = Evaluation(attacks=runs, judges={"honest": Judge(num_draws=64)})
        made = method(rule, stochastic=rule is drowned, quiet=sound)
        return enough_draws(made, params, images, labels, wanted, key=jax.random.key(0))

    few, many = found(drowned), found(drowned, eot_samples=16)
    assert few.status == "flag", few
    assert few.next_step
    assert many.status == "passed", many
    assert found(sound).status == "not run"
    assert found(drowned, view="quiet").status == "not run"
