"""AutoAttack on the host: what falls, what it costs in compilations, and its warnings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import TypeCheckError

from robust_jax.attacks import (
    APGD,
    APGDT,
    FAB,
    FABT,
    AutoAttack,
    DeepFool,
    Square,
    ThreatModel,
    autoattack,
    standing,
)

KEY = jax.random.key(13)
THREAT = ThreatModel("linf", 0.14)
QUICK = (
    APGD(THREAT, num_steps=6),
    APGDT(THREAT, num_steps=6, num_targets=3),
    Square(THREAT, num_queries=30),
)


def standing_of(digits, report):
    logits = digits.view(jnp.asarray(report.images), key=None)
    return np.asarray(jnp.argmax(logits, axis=1) == digits.labels)


def test_the_official_hyper_parameters():
    assert [type(attack) for attack in autoattack.standard(THREAT)] == [APGD, APGDT, FABT, Square]
    ce, targeted, fab, square = autoattack.standard(THREAT)
    assert (ce.loss, ce.num_steps, ce.num_restarts, ce.rho) == ("cross_entropy", 100, 1, 0.75)
    assert (targeted.num_targets, targeted.num_steps, targeted.num_restarts) == (9, 100, 1)
    assert (fab.num_targets, fab.num_steps, fab.num_restarts) == (9, 100, 1)
    assert (fab.max_bias, fab.overshoot, fab.shrink) == (0.1, 1.05, 0.9)
    assert (square.num_queries, square.initial_share, square.loss) == (5000, 0.8, "margin")
    assert not square.rescale_schedule
    kinds = [type(attack) for attack in autoattack.plus(THREAT)]
    assert kinds == [APGD, APGD, FAB, Square, APGDT, FABT]
    assert [attack.num_runs for attack in autoattack.plus(THREAT)] == [5, 5, 5, 1, 9, 9]
    assert [attack.loss for attack in autoattack.rand(THREAT)] == ["cross_entropy", "dlr"]
    assert AutoAttack(THREAT, version="rand").num_samples == 20


def test_what_falls_is_fooled_inside_the_ball(digits):
    wrong = digits.labels.at[0].add(1) % 10
    attack = AutoAttack(THREAT, version="custom", attacks=QUICK, batch_size=16)
    report = attack.report(digits.view, digits.images, wrong, key=KEY)
    logits = digits.view(jnp.asarray(report.images), key=None)
    np.testing.assert_array_equal(report.standing, np.argmax(logits, axis=1) == wrong)
    distance = np.abs(report.images - digits.images).max(axis=(1, 2, 3))
    assert distance.max() <= THREAT.eps + 1e-6
    assert np.all(distance[report.standing] == 0)
    assert report.fallen_to[0] == -2
    assert distance[0] == 0
    assert np.all((report.fallen_to == -1) == report.standing)
    assert 0 < report.standing.sum() < 15
    # Each attack saw what the ones before it had left.
    left = [stage.num_standing for stage in report.stages]
    assert left == sorted(left, reverse=True)
    assert left[-1] == report.standing.sum()
    # Two forward passes and a backward one look at each image. Then an attack costs those that
    # stood before each of its runs: a run of k steps of APGD k + 1 of both kinds, one forward
    # pass to be judged and one to rank its targets.
    assert (report.passes.forward[0], report.passes.backward[0]) == (2, 1)
    assert report.stages[0].num_passes == 15 * (7 + 7 + 1)
    assert report.stages[1].num_passes <= 3 * left[0] * (7 + 7 + 1 + 1)
    last = report.stages[2].num_passes / left[1]
    assert last <= 30 + 1 + 1
    total = 3 * 16 + sum(stage.num_passes for stage in report.stages)
    assert report.passes.forward.sum() + report.passes.backward.sum() == total


@pytest.mark.slow
def test_few_compilations_and_any_batch_size(digits):
    compiled = standing._one_run.of_arrays._cache_size()
    attack = AutoAttack(THREAT, version="custom", attacks=QUICK, batch_size=12)
    first = attack.report(digits.view, digits.images, digits.labels, key=KEY)
    again = attack.report(digits.view, digits.images[:7], digits.labels[:7], key=KEY)
    # Two batch sizes for each of the three attacks, however many runs and batches there were.
    assert standing._one_run.of_arrays._cache_size() - compiled <= 6
    np.testing.assert_array_equal(first.standing[:7], again.standing)
    np.testing.assert_allclose(first.images[:7], again.images, atol=2e-5)


@pytest.mark.slow
def test_sharded_over_devices(digits, monkeypatch):
    attack = AutoAttack(THREAT, version="custom", attacks=QUICK[:1], batch_size=15)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(digits.images, NamedSharding(mesh, PartitionSpec("data")))
    one_run, rows_of_device = standing._one_run, []

    def watched(*arguments):
        found, *rest = one_run(*arguments)
        rows_of_device.extend(shard.data.shape[0] for shard in found.addressable_shards)
        return found, *rest

    monkeypatch.setattr(standing, "_one_run", watched)
    there = attack.report(digits.view, spread, digits.labels, key=KEY)
    # Sixteen images stand at first, of batches of 15 rounded up to the four devices.
    assert rows_of_device == [4, 4, 4, 4]
    monkeypatch.undo()
    here = attack.report(digits.view, digits.images, digits.labels, key=KEY)
    np.testing.assert_array_equal(there.standing, here.standing)
    np.testing.assert_allclose(there.images, here.images, atol=2e-5)


@pytest.mark.slow
def test_zero_eps_no_images_and_one_image(digits):
    still = ThreatModel("linf", 0.0)
    attack = AutoAttack(still, version="custom", attacks=(APGD(still, num_steps=2),), batch_size=4)
    np.testing.assert_array_equal(attack(*digits, key=KEY), digits.images)
    empty = attack(digits.view, digits.images[:0], digits.labels[:0], key=KEY)
    assert empty.shape == (0, 8, 8, 1)
    one = attack(digits.view, digits.images[:1], digits.labels[:1], key=KEY)
    np.testing.assert_array_equal(one, digits.images[:1])


@pytest.mark.slow
def test_the_standard_suite_beats_its_parts(digits):
    threat = ThreatModel("l2", 0.8)
    suite = AutoAttack(threat, batch_size=16).report(*digits, key=KEY)
    assert len(suite.stages) == 4
    single = APGD(threat, num_steps=20)(*digits, key=KEY)
    standing = np.asarray(jnp.argmax(digits.view(single, key=None), axis=1) == digits.labels)
    assert not np.any(suite.standing & ~standing)
    np.testing.assert_array_equal(standing_of(digits, suite), suite.standing)


@pytest.mark.slow
def test_warnings(digits):
    def noisy(images, *, key):
        return digits.view(images, key=None) + 0.01 * jax.random.normal(key, (len(images), 10))

    def steps(images, *, key):
        del key
        return jnp.round(100 * digits.view(images, key=None))

    attack = AutoAttack(THREAT, version="custom", attacks=QUICK[:1], batch_size=16)
    assert attack.report(*digits, key=KEY).warnings == ()
    random = attack.report(noisy, digits.images, digits.labels, key=KEY)
    assert [text.split(":")[0] for text in random.warnings] == ["randomized"]
    flat = AutoAttack(
        THREAT, version="custom", attacks=(QUICK[0], Square(THREAT, num_queries=300)), batch_size=16
    ).report(steps, digits.images, digits.labels, key=KEY)
    assert "none at 16 of 16 images" in flat.warnings[0]
    assert "Square fooled" in flat.warnings[1]


@pytest.mark.slow
def test_rand_attacks_a_random_model(digits):
    def noisy(images, *, key):
        return digits.view(images + 0.05 * jax.random.normal(key, images.shape), key=None)

    attack = AutoAttack(ThreatModel("linf", 0.15), version="rand", num_samples=3, batch_size=16)
    report = attack.report(noisy, digits.images, digits.labels, key=KEY)
    assert report.warnings == ()
    assert len(report.stages) == 2
    assert report.standing.sum() < 16
    at_once = dataclasses.replace(attack, parallel_draws=True)
    np.testing.assert_array_equal(
        at_once.report(noisy, digits.images, digits.labels, key=KEY).standing, report.standing
    )


def test_bad_input(digits):
    with pytest.raises(ValueError, match="only then, not 'standard'"):
        AutoAttack(THREAT, attacks=QUICK)
    with pytest.raises(ValueError, match="Expected 0 attacks to be given with version='custom'"):
        AutoAttack(THREAT, version="custom")
    with pytest.raises(ValueError, match=r"Expected threat=ThreatModel.*eps=0.14"):
        AutoAttack(ThreatModel("linf", 0.1), version="custom", attacks=QUICK)
    for member, message in (
        (Square(THREAT, targeted=True), "not to be targeted"),
        (APGD(THREAT, num_restarts=2, parallel=True), "not to be parallel"),
        (AutoAttack(THREAT), "made of runs"),
        (DeepFool(), "made of runs|Expected type: tuple"),
    ):
        # The type checker of the tests is asked first; without it the ValueError is raised.
        with pytest.raises((ValueError, TypeCheckError), match=message):
            AutoAttack(THREAT, version="custom", attacks=(member,))
    with pytest.raises(ValueError, match="Expected parallel_draws=True to be False"):
        AutoAttack(THREAT, parallel_draws=True)
    with pytest.raises(ValueError, match="runs on the host"):
        jax.jit(lambda x: AutoAttack(THREAT)(digits.view, x, digits.labels, key=KEY))(digits.images)
