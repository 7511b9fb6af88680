"""What attacks begin at: other images where a network calls all noise one class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation, voting
from robust_jax.attacks import PGD, Boundary, HopSkipJump, ThreatModel, bind, over_dataset
from robust_jax.data import TFDS, DataConfig, Digits, open_data
from robust_jax.evaluation import sanity
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Selection
from robust_jax.interop.torch import import_state_dict, load_state_dict
from robust_jax.methods import Method
from robust_jax.models import Classifier, default_layers
from robust_jax.runtime import sharding
from robust_jax.runtime.compilation import jitted

KEY = jax.random.key(5)
ATTACKS = {
    "boundary": Boundary(num_steps=20),
    "hop_skip_jump": HopSkipJump(num_steps=1, num_first_queries=5),
    "within": Boundary(num_steps=20).within(8.0),
}


def zero_if_noisy(logits, images):
    """Calls 0 whatever is not black at its left edge, as digits are and noise is not."""
    noisy = jnp.mean(images[:, :, 0], axis=(1, 2)) > 0.2
    return logits.at[:, 0].add(jnp.where(noisy, 1e3, 0))


@pytest.fixture(scope="module")
def zeros(many_digits):
    """A view that calls all noise 0, four images of 0 and two others, and images of all classes."""

    def view(images, *, key):
        return zero_if_noisy(many_digits.view(images, key=key), images)

    rows = [*np.flatnonzero(many_digits.labels == 0)[:4], *np.flatnonzero(many_digits.labels)[:2]]
    rows = np.asarray(rows)
    assert len(rows) == 6
    return view, many_digits.images[rows], many_digits.labels[rows], many_digits.images


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "boundary",
        "hop_skip_jump",
        "within",
    ],
)
def test_images_of_the_class_of_noise_begin_at_other_images(name, zeros):
    view, images, labels, pool = zeros
    attack, given = ATTACKS[name], (view, images, labels)
    np.testing.assert_array_equal(attack.started(*given, key=KEY), [False] * 4 + [True] * 2)
    assert jnp.all(attack.started(*given, key=KEY, starts=pool))
    found = attack(*given, key=KEY, starts=pool)
    assert jnp.all(jnp.argmax(view(found, key=None), axis=1) != labels)
    # Rows are chosen for by their index: alone, and in another order of the batch.
    one = attack(view, images[3:4], labels[3:4], key=KEY, index=jnp.array([3]), starts=pool)
    np.testing.assert_allclose(one, found[3:4], atol=2e-5)
    if name == "boundary":
        by_two = over_dataset(
            attack, *given, key=KEY, batch_size=4, progress=False, starts=np.asarray(pool)
        )
        np.testing.assert_allclose(by_two, found, atol=2e-5)


@pytest.mark.slow
def test_targets_and_a_pool_without_the_class(zeros):
    view, images, labels, pool = zeros
    targets = (labels + 3) % 10
    attack = Boundary(num_steps=2, targeted=True)
    found = attack(view, images, targets, key=KEY, starts=pool)
    np.testing.assert_array_equal(jnp.argmax(view(found, key=None), axis=1), targets)
    # Only the images themselves: of the class that they are to leave, so noise is tried.
    zero = Boundary(num_steps=2).started(view, images, labels, key=KEY, starts=images[:1])
    np.testing.assert_array_equal(zero, [False] * 4 + [True] * 2)
    noise = Boundary(num_steps=2, start="noise").started(view, images, labels, key=KEY, starts=pool)
    np.testing.assert_array_equal(noise, zero)


def test_starts_are_for_those_that_begin_elsewhere(zeros):
    view, images, labels, pool = zeros
    attack = PGD(ThreatModel("linf", 0.1), num_steps=1)
    with pytest.raises(ValueError, match="Expected starts to be None: PGD begins at the images"):
        attack(view, images, labels, key=KEY, starts=pool)
    assert jnp.all(attack.started(view, images, labels, key=KEY))
    for wrong in (pool[:0], pool[:, :4], pool[0]):
        with pytest.raises(ValueError, match=r"Expected starts\.shape=.* to be \[n \.\.\.\]"):
            Boundary()(view, images, labels, key=KEY, starts=wrong)


@pytest.mark.slow
def test_the_harness_passes_images_and_counts_who_has_none():
    """A model that knows one class has no start to offer; with two every image has one."""
    data = open_data(DataConfig(Digits()))
    nothing = lambda **_: {}  # noqa: E731

    def found(classes):
        def view(variables, images, *, key=None):
            dark = jnp.mean(images, axis=(1, 2, 3)) < variables["dark"]
            logits = jax.nn.one_hot(jnp.where(dark, classes[0], classes[1]), 10)
            return zero_if_noisy(logits, images)

        method = Method(nothing, nothing, view, {"deployed": view}, False)
        config = Evaluation(
            {"boundary": AttackRun(Boundary(num_steps=3))},
            selection=Selection(num_examples=20),
            batch_size=8,
        )
        evaluator = evaluation.make_evaluator(method, config, sharding.make_mesh(1))
        records = evaluation.evaluate(evaluator, {"dark": jnp.float32(0.3)}, data.test)
        flags = [
            f
            for f in sanity.check_records(records, config.attacks, config.deciding)
            if f.status == "flag"
        ]
        return list(records["boundary"].values()), flags

    records, flags = found((0, 0))
    zeros = sum(record.label == 0 for record in records)
    assert sum(not record.started for record in records) == zeros > 0
    (flag,) = flags
    assert flag.check == "every image has a start"
    assert f"(boundary {zeros})" in flag.text
    records, flags = found((0, 1))
    assert all(record.started for record in records)
    assert not any(record.headline().correct for record in records if record.label == 0)
    assert not flags


@pytest.mark.nightly
def test_a_public_ensemble_that_calls_all_noise_class_six(public_checkpoints, tfds_dir):
    """By noise no image of class 6 has a start; by images of the test split all fall."""
    pytest.importorskip("torch", reason="needs the extra robust_jax[torch]")
    file = public_checkpoints / "parl_repo_parl5_cifar10_3x_resnet20.pth"
    network, norm, variables = import_state_dict(load_state_dict(file), "parl_3x_resnet20")
    model = Classifier(network.make(10, default_layers()), norm)

    def mean_probability(variables, images, *, key):
        del key
        found = model.apply(variables, images, train=False, deterministic=True)
        return voting.mean_probability(found.member_logits)

    view = bind(mean_probability, variables)
    test = TFDS(name="cifar10", data_dir=str(tfds_dir)).load().test
    images, labels = map(np.stack, zip(*(test[row] for row in range(64)), strict=True))
    images, labels = images.astype(np.float32) / np.float32(255), labels.astype(np.int32)
    # Points at the boundary: decided by a program that rounds as the attack does.
    decide = jitted(lambda images: jnp.argmax(view(images, key=None), axis=1))
    right = np.asarray(decide(images)) == labels
    six, others = np.flatnonzero((labels == 6) & right)[:2], np.flatnonzero((labels != 6) & right)
    rows = np.concatenate([six, others[:2]])
    given = view, images[rows], labels[rows]
    for attack in (Boundary(num_steps=10), HopSkipJump(num_steps=1, num_first_queries=5)):
        np.testing.assert_array_equal(attack.started(*given, key=KEY), [False, False, True, True])
        found = attack(*given, key=KEY, starts=images[:32])
        assert np.all(np.asarray(decide(found)) != labels[rows])
