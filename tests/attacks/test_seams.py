"""Images, labels, classes and precisions as people have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import voting
from robust_jax.attacks import (
    APGD,
    APGDT,
    ARC,
    FAB,
    FABT,
    FGSM,
    FMN,
    AutoAttack,
    DeepFool,
    Square,
    Suite,
    ThreatModel,
    TrustRegion,
    as_view,
    losses,
)
from robust_jax.attacks.runs import Given
from robust_jax.certify import Smoothing, crown_margins

KEY = jax.random.key(2)
THREAT = ThreatModel("linf", 0.1)


def linear(shape, num_classes=3, dtype=jnp.float32):
    """Returns a view, images and their labels."""
    weights = jax.random.normal(jax.random.key(0), (int(np.prod(shape)), num_classes), dtype)
    images = jax.random.uniform(jax.random.key(1), (4, *shape), dtype)

    def logits(images):
        return images.reshape(len(images), -1) @ weights

    return logits, images, jnp.argmax(logits(images), axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, 12, 1), pytest.param((9, 2, 2), marks=pytest.mark.slow)])
def test_square_on_oblong_images(shape):
    logits, images, labels = linear(shape)
    threat = ThreatModel("l2", 0.3)
    found = Square(threat, num_queries=15)(as_view(logits), images, labels, key=KEY)
    np.testing.assert_array_less(threat.distance(found, images), 0.3 + 1e-6)
    assert not np.array_equal(found, images)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.parametrize("version", ["standard", "rand"])
def test_few_classes_suffice(version, num_classes):
    members = AutoAttack(THREAT, version=version).members(num_classes)
    logits, images, labels = linear((2, 3, 1), num_classes)
    for attack in members:
        assert getattr(attack, "num_targets", 1) <= num_classes - 1
        run = jax.eval_shape(
            lambda images, attack=attack: attack.perturb(
                Given(as_view(logits), images, labels, KEY, jnp.arange(4))
            ),
            images,
        )
        assert run.shape == images.shape
    if num_classes == 4:
        changed = {type(a).__name__ for a in members if isinstance(a, (APGDT, FABT))}
        assert changed == ({"APGDT", "FABT"} if version != "rand" else set())


@pytest.mark.parametrize("num_classes", [4, 8, 10, 12])
def test_targets_are_the_nine_likeliest_or_all_there_are(num_classes):
    members = AutoAttack(THREAT).members(num_classes)
    found = {a.num_targets for a in members if isinstance(a, (APGDT, FABT))}
    assert found == {min(9, num_classes - 1)}


@pytest.mark.slow
def test_a_suite_on_two_classes():
    logits, images, labels = linear((2, 3, 1), 2)
    report = AutoAttack(THREAT, version="rand", num_samples=1).report(
        as_view(logits), images, labels, key=KEY
    )
    # The least margin in a box, for a linear model.
    steepest = jnp.sign(jax.grad(lambda z: (logits(z)[:, 0] - logits(z)[:, 1]).sum())(images))
    sign = jnp.where(labels == 0, 0.1, -0.1)[:, None, None, None]
    ends = jnp.clip(images - sign * steepest, 0, 1)
    np.testing.assert_array_equal(report.standing, np.argmax(logits(ends), axis=1) == labels)


@pytest.mark.parametrize(
    ("attack", "num_classes"),
    [(FABT(THREAT), 9), (APGDT(THREAT, num_targets=1), 3), (APGD(THREAT, loss="dlr"), 2)],
    ids=lambda value: type(value).__name__,
)
def test_too_few_classes_are_refused_before_any_work(attack, num_classes):
    logits, images, labels = linear((2, 3, 1), num_classes)
    suite = AutoAttack(THREAT, version="custom", attacks=(APGD(THREAT), attack))
    done = []
    with pytest.raises(ValueError, match=f"num_classes={num_classes} to suffice"):
        suite.report(as_view(logits), images, labels, key=KEY, progress_fn=done.append)
    assert not done


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", list])
def test_labels_as_people_have_them(dtype):
    logits, images, labels = linear((2, 3, 1))
    attack = TrustRegion(num_steps=3)
    given = labels.tolist() if dtype is list else np.asarray(labels, dtype)
    expected = attack(as_view(logits), images, labels, key=KEY)
    found = attack(as_view(logits), images, given, key=KEY)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_64_bits():
    with jax.enable_x64(True):
        logits, images, labels = linear((2, 3, 1))
        assert labels.dtype == jnp.int64
        for attack in (
            DeepFool(num_steps=3),
            TrustRegion(num_steps=3),
            FAB(ThreatModel("l2", 0.5), num_steps=3),
            FABT(ThreatModel("l2", 0.5), num_steps=3, num_targets=1),
            FMN(num_steps=3),
            ARC(THREAT, num_steps=2),
        ):
            for view in (logits, lambda images: logits(images).astype(jnp.float64)):
                found = attack(as_view(view), images, labels.astype(jnp.int32), key=KEY)
                assert found.dtype == jnp.float32
        votes = Smoothing(0.25, num_samples=10)(
            lambda images, *, key: logits(images), images, key=KEY
        )
        margins = crown_margins(lambda x: jax.nn.relu(logits(x)), images, labels, 0.0)
    assert votes.label.shape == (4,)
    expected = jax.nn.relu(logits(images))
    own = jnp.take_along_axis(expected, labels.astype(jnp.int32)[:, None], axis=1)
    np.testing.assert_allclose(margins, own - expected, atol=1e-5)  # as in test_crown.py


def test_equal_logits_in_half_precision():
    logits, labels = jnp.ones((1, 4), jnp.float16), jnp.array([0])
    slope = jax.grad(lambda x: jnp.sum(losses.dlr(x, labels)))(logits)
    targeted = losses.targeted_dlr(jnp.array([1]))(logits, labels)
    assert np.isfinite(losses.dlr(logits, labels)).all()
    assert np.isfinite(targeted).all()
    assert np.isfinite(slope).all()


def test_logits_of_16_bits_are_attacked_in_float32():
    """In bfloat16 the softmax of a class that is sure by ten is 1: its own slope is lost."""
    logits, images, labels = linear((2, 3, 1))

    def half(images):
        found = logits(images).at[jnp.arange(4), labels].add(10)
        return found.astype(jnp.bfloat16)

    found = FGSM(THREAT)(as_view(half), images, labels, key=KEY)
    full = as_view(lambda images: half(images).astype(jnp.float32))
    np.testing.assert_array_equal(found, FGSM(THREAT)(full, images, labels, key=KEY))


@pytest.mark.slow
def test_members_of_16_bits_are_judged_in_float32():
    """Of an image that may not move nothing falls that the mean probability has right."""
    members = jax.random.normal(jax.random.key(3), (20, 400, 3)).astype(jnp.bfloat16)
    labels = jnp.argmax(voting.mean_probability(members.astype(jnp.float32)), axis=1)
    index, still = jnp.arange(400.0)[:, None] / 400, ThreatModel("linf", 0.0)

    def view(images, *, key):
        del key
        return members[:, jnp.round(400 * images[:, 0]).astype(int)] + 0 * images.sum().astype(
            jnp.bfloat16
        )

    report = Suite(still, attacks=(FGSM(still),)).report(view, index, labels, key=KEY)
    assert report.standing.all()
    for rule in (voting.mean_probability, voting.mean_logit, losses.decision):
        assert (rule(members) == rule(members.astype(jnp.float32))).all()
    several = jnp.zeros((300, 1, 2), jnp.bfloat16).at[:, 0, 0].set(1)  # more than bfloat16 counts
    assert voting.majority(several, ties="lowest_class").tolist() == [[1.0, 0.0]]
    assert voting.borda(several).tolist() == [[300.0, 0.0]]


def test_what_is_no_logits_is_said():
    logits, images, labels = linear((2, 3, 1))
    for wrap in (lambda x: (x, x), lambda x: {"logits": x}):
        with pytest.raises(ValueError, match="to be one array of logits"):
            FGSM(THREAT)(as_view(lambda x, wrap=wrap: wrap(logits(x))), images, labels, key=KEY)
    masked = as_view(lambda x: logits(x).at[:, 2].set(-jnp.inf))
    with pytest.raises(ValueError, match="a class is masked by a large negative logit"):
        FGSM(THREAT)(masked, images, labels, key=KEY)


def test_inside_a_callers_jit_over_images_that_it_closes_over():
    logits, images, labels = linear((2, 3, 1))

    @jax.jit
    def inside(scale):
        return FGSM(THREAT)(as_view(lambda x: scale * logits(x)), images, labels, key=KEY)

    expected = FGSM(THREAT)(as_view(logits), images, labels, key=KEY)
    np.testing.assert_allclose(inside(2.0), expected, atol=1e-6)  # the clip rounds once more
