"""Defects of an evaluation of random models, planted one by one; a sound one raises none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation
from robust_jax.attacks import FGSM, PGD, ThreatModel
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import sanity
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Judge, Selection
from robust_jax.evaluation.sanity.draws import enough_draws
from robust_jax.evaluation.sanity.probed import Probed
from robust_jax.runtime import sharding
from tests.evaluation.sanity.digits import method, network, trained


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(Digits()))


@pytest.fixture(scope="module")
def params(data):
    """An adversarially trained network."""
    return trained(data, eps=0.1)


def flags(found_method, params, data, **run):
    """The names of the flags that the records of an evaluation raise."""
    attack = PGD(ThreatModel("linf", 0.2), num_steps=10)
    config = Evaluation(
        {"pgd": AttackRun(attack, **run)}, selection=Selection(num_examples=128), batch_size=128
    )
    evaluator = evaluation.make_evaluator(found_method, config, sharding.make_mesh(1))
    records = evaluation.evaluate(evaluator, params, data.test)
    findings = sanity.check_records(records, config.attacks, config.deciding)
    assert all(finding.next_step for finding in findings if finding.status == "flag")
    return {finding.check for finding in findings if finding.status == "flag"}


def sound(params, images, *, key=None):
    return network(params, images)


def secretly_random(params, images, *, key=None):
    if key is None:
        return network(params, images)
    return network(params, images + 0.2 * jax.random.normal(key, images.shape))


def masked(params, images, *, key):
    """Sees seven random pixels of ten."""
    kept = jax.random.bernoulli(key, 0.7, images.shape[1:])
    return network(params, jnp.where(kept[None], images, 0))


def masked_at_one_key(params, images, *, key=None):
    return masked(params, images, key=jax.random.key(5))


def drawn_while_traced(params, images, *, key=None):
    """Its numbers are the host's: each program has its own, and every call of it the same."""
    return network(params, images + 0.2 * np.random.default_rng().normal(size=images.shape))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [secretly_random, drawn_while_traced])
def test_randomness_that_is_not_declared(rule, params, data):
    images = jnp.asarray(data.test.arrays[0][:64] / 255, jnp.float32)
    labels = jnp.asarray(data.test.arrays[1][:64], jnp.int32)
    found = sanity.probe(Probed(method(rule), params, images, labels, {}))
    assert "randomness as declared" in {f.check for f in found if f.status == "flag"}


def test_a_key_that_is_not_declared_but_demanded(params, data):
    evaluator = evaluation.make_evaluator(method(drowned), Evaluation(), sharding.make_mesh(1))
    with pytest.raises(ValueError, match="Expected a method that asks for a key to say stochastic"):
        evaluation.evaluate(evaluator, params, data.test)


@pytest.mark.slow
def test_an_attack_on_draws_that_the_judge_never_sees(params, data):
    found = method(masked, stochastic=True, one_key=masked_at_one_key)
    assert "attacked view and judge agree" in flags(found, params, data, view="one_key")
    assert "attacked view and judge agree" not in flags(found, params, data, eot_samples=10)


def drowned(params, images, *, key):
    """One noise for the batch, so loud that a single draw's gradient says little."""
    return network(params, images + 0.5 * jax.random.normal(key, images.shape[1:])[None])


@pytest.mark.slow
def test_draws_that_do_not_suffice(params, data):
    """One draw of a very noisy model raises the flag; 16 do not."""
    images = jnp.asarray(data.test.arrays[0] / 255, jnp.float32)
    labels = jnp.asarray(data.test.arrays[1], jnp.int32)

    def found(rule, draws_per="row", **run):
        # A single step: many steps average over their own draws.
        runs = {"fgsm": AttackRun(FGSM(ThreatModel("linf", 0.1)), **run)}
        wanted = Evaluation(attacks=runs, judges={"honest": Judge(num_draws=64)})
        made = method(rule, stochastic=rule is drowned, quiet=sound)
        made = made._replace(draws_per=draws_per)
        probed = Probed(made, params, images, labels, wanted.attacks)
        return enough_draws(probed, key=jax.random.key(0))

    few, many = found(drowned), found(drowned, eot_samples=16)
    assert few.status == "flag", few
    assert few.next_step
    assert found(drowned, "call").status == "note"  # images of one draw are no trials of their own
    assert many.status == "passed", many
    assert found(sound).status == "not run"
    assert found(drowned, view="quiet").status == "not run"
