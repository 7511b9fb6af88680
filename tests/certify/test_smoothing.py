"""Randomized smoothing: closed-form radii, coverage, counts, and what a vote depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from robust_jax.attacks import bind
from robust_jax.certify import (
    Certificate,
    Smoothing,
    certified_accuracy,
    lower_confidence_bound,
)
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import Model, certification
from robust_jax.methods import RandomLayerSampling
from robust_jax.models import CNNConfig
from robust_jax.runtime import sharding
from robust_jax.types import Task

KEY = jax.random.key(3)
WEIGHTS = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(np.float32)
NORM = float(np.linalg.norm(WEIGHTS))
SIGMA = 0.5


def image_at(distance: float) -> np.ndarray:
    """Returns one image at this distance from the half-space's border."""
    return (0.3 + (distance - 0.3 * WEIGHTS.sum() / NORM) * WEIGHTS / NORM)[None].astype(np.float32)


def half_space(images, *, key):
    """Returns logits of two classes: class 1 where weights * image > 0."""
    del key
    score = jnp.sum(images * WEIGHTS[None], axis=(1, 2, 3))
    return jnp.stack([-score, score], axis=1)


def noisy_half_space(images, *, key, scale=0.8 * SIGMA * NORM):
    return half_space(images, key=None) + jnp.stack(
        [jnp.zeros(len(images)), 2 * scale * jax.random.normal(key, (len(images),))], axis=1
    )


def radius_of(probability: float, num_samples: int, alpha: float, spread: float = 0.0) -> float:
    """Returns the radius of a count `spread` standard deviations from the expected one."""
    deviation = np.sqrt(num_samples * probability * (1 - probability))
    count = num_samples * probability + spread * deviation
    return SIGMA * special.ndtri(stats.beta.ppf(alpha, count, num_samples - count + 1))


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(
    ("predict", "share"), [(half_space, 1.0), (noisy_half_space, 1 / np.hypot(1, 0.8))]
)
def test_radius_of_a_half_space(predict, share):
    """The margin over the norm; noise inside the classifier lowers the vote, not sigma."""
    smoothing = Smoothing(SIGMA, num_samples=20_000, alpha=0.01, batch_size=1024)
    distance = 0.6
    certificate = smoothing(predict, image_at(distance), key=KEY)
    probability = stats.norm.cdf(distance / SIGMA * share)
    assert certificate.label.tolist() == [1]
    # Five standard deviations either way.
    lowest, highest = (radius_of(probability, 20_000, 0.01, spread) for spread in (-5, 5))
    assert lowest < certificate.radius[0] < highest
    assert certificate.radius[0] < distance * share, "above the truth with probability 0.01"
    assert highest - lowest < 0.15 * distance


def test_abstains_at_the_border():
    smoothing = Smoothing(SIGMA, num_samples=500, batch_size=500)
    certificate = smoothing(half_space, image_at(0.0), key=KEY)
    assert certificate.label.tolist() == [-1]
    assert certificate.radius.tolist() == [0.0]


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_counts_every_vote_once(batch_size):
    smoothing = Smoothing(1.0, num_selection=10, num_samples=100, batch_size=batch_size)
    certificate = smoothing(
        lambda images, *, key: jnp.tile(jnp.asarray([[0.0, 1.0, 1.0]]), (len(images), 1)),
        image_at(0.0),
        key=KEY,
    )
    assert certificate.label.tolist() == [1], "ties go to the lowest class"
    np.testing.assert_allclose(certificate.radius, special.ndtri(0.001 ** (1 / 100)), rtol=1e-12)


@pytest.mark.slow
def test_votes_depend_on_key_and_index_alone():
    images = np.concatenate([image_at(0.1), image_at(0.5), image_at(-0.4)])
    smoothing = Smoothing(SIGMA, num_selection=50, num_samples=300, batch_size=300)
    expected = smoothing(half_space, images, key=KEY)
    assert expected.label.tolist()[1:] == [1, 0]
    for batch_size in (64, 100):
        again = Smoothing(SIGMA, num_selection=50, num_samples=300, batch_size=batch_size)
        np.testing.assert_array_equal(again(half_space, images, key=KEY).radius, expected.radius)
    again = Smoothing(SIGMA, num_selection=50, num_samples=300, batch_size=64)
    split = again(half_space, images, key=KEY, mesh=sharding.make_mesh(4))
    np.testing.assert_array_equal(split.radius, expected.radius)
    alone = smoothing(half_space, images[1:], key=KEY, index=np.asarray([1, 2]))
    np.testing.assert_array_equal(alone.radius, expected.radius[1:])
    other = smoothing(half_space, images[1:], key=KEY)
    assert (other.radius != expected.radius[1:]).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", [{"radius": 0.2}, pytest.param({"tolerance": 0.2}, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("noise", [pytest.param("float", marks=pytest.mark.slow), "rounded"])
def test_votes_end_when_it_is_decided(asked, noise):
    """As all votes decide it, for a part of them; at the same vote in whatever batches."""
    images = np.rint(255 * np.concatenate([image_at(d) for d in (0.5, 0.01, -0.9)])) / 255
    images = images.astype(np.float32)
    fields = {"num_samples": 5_000, "alpha": 0.01, "noise": noise}
    whole = Smoothing(SIGMA, batch_size=1000, **fields)(half_space, images, key=KEY)
    assert whole.num_votes.tolist() == [5_000] * 3
    assert whole.label.tolist()[::2] == [1, 0]
    found = Smoothing(SIGMA, batch_size=1000, **asked, **fields)(half_space, images, key=KEY)
    assert found.label.tolist()[::2] == [1, 0]
    assert np.all(found.num_votes[::2] < 3_000)
    assert np.all(found.radius <= whole.radius)
    least = asked.get("radius", 0.8 * whole.radius[::2])
    assert np.all(found.radius[::2] >= least)
    for batch_size, mesh in ((64, None), (1_700, None), (100, sharding.make_mesh(4))):
        again = Smoothing(SIGMA, batch_size=batch_size, **asked, **fields)
        other = again(half_space, images, key=KEY, mesh=mesh)
        np.testing.assert_array_equal(other.num_votes, found.num_votes)
        np.testing.assert_array_equal(other.radius, found.radius)


def test_what_is_not_asked_for_is_not_computed():
    """Neither are its scores looked at: NaN after the votes end is nobody's."""
    asked = []

    def predict(images, *, key):
        jax.debug.callback(lambda _: asked.append(len(images)), key)
        return jnp.where(jax.random.key_data(key)[0] == 0, jnp.nan, half_space(images, key=None))

    smoothing = Smoothing(SIGMA, num_selection=50, batch_size=50, radius=0.2)
    found = smoothing(predict, image_at(2.0), key=KEY, draws_per="row")
    jax.effects_barrier()
    assert found.num_votes.tolist() == [100]
    assert asked == [50] * 3


def test_other_weights_compile_nothing_anew():
    traces, counts = [], []

    def predict(weights, images, *, key):
        traces.append(1)
        return half_space(images * weights, key=key)

    smoothing = Smoothing(SIGMA, num_selection=10, num_samples=10)
    for weight in (1.0, -1.0):
        bound = jax.tree_util.Partial(predict, jnp.float32(weight))
        smoothing(bound, image_at(2.0), key=KEY)
        counts.append(len(traces))
    assert counts[0] == counts[1]


def one_draw_a_call(images, *, key):
    """Returns the scores of one of two constant models for the whole batch, a coin's."""
    winner = jax.random.bernoulli(key).astype(int)
    return jnp.zeros((len(images), 2)).at[:, winner].set(1.0)


def sampled_layers():
    """Returns RLS with one weight that says class 0 and one that says class 1, and its arrays."""
    config = RandomLayerSampling(network=CNNConfig(widths=(2,), strides=(2,)), num_draws=1)
    method = config.make(Task((8, 8, 1), 10, 100))

    def decide(path, leaf):
        if [entry.key for entry in path[-2:]] == ["linear", "bias"]:
            return jnp.eye(2, 10)
        return jnp.zeros_like(leaf)

    shapes = jax.eval_shape(lambda: method.init(key=jax.random.key(0)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    return method, jax.tree_util.tree_map_with_path(decide, zeros)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        "a function",
        "the method",
        "an evaluation",
    ],
)
def test_coverage_of_a_method_that_draws_once_a_call(way, tmp_path):
    """Both classes have probability one half: any certificate is wrong, alpha of them allowed."""
    method, variables = sampled_layers()
    smoothing = Smoothing(SIGMA, num_selection=1, num_samples=30, alpha=0.1, batch_size=30)
    images = np.full((120, 8, 8, 1), 0.5, np.float32)
    if way == "an evaluation":
        mesh = sharding.make_mesh(1)
        test, rows = open_data(DataConfig(Digits())).test, np.arange(60)
        found = certification.certify(
            {"a": smoothing},
            method,
            variables,
            test,
            rows,
            mesh,
            precision="highest",
            seed=0,
            directory=tmp_path,
        )
        certificate = found["a"][0]
    else:
        predict = one_draw_a_call if way == "a function" else bind(method.predict, variables)
        certificate = smoothing(predict, images, key=KEY)
    num_wrong = np.sum(certificate.label >= 0)
    # Clopper and Pearson's bound at 30 votes: above one half with probability .0494.
    assert num_wrong <= stats.binom.ppf(1 - 1e-6, len(certificate.label), 0.0494)


@pytest.mark.slow
def test_own_draws_of_a_call_depend_on_the_vote_alone():
    """Whatever batch it is in; a function said to draw anew for each row is asked for batches."""
    sizes = []

    def predict(images, *, key):
        sizes.append(len(images))
        return noisy_half_space(images, key=key)

    found = [
        Smoothing(SIGMA, num_selection=20, num_samples=200, batch_size=size)(
            predict, image_at(0.5), key=KEY
        ).radius[0]
        for size in (16, 5)
    ]
    assert found[0] == found[1] > 0
    assert set(sizes) >= {1}
    sizes.clear()
    smoothing = Smoothing(SIGMA, num_samples=200, batch_size=200)
    smoothing(predict, image_at(0.5), key=KEY, draws_per="row")
    assert 1 not in sizes


@pytest.mark.slow
def test_confidence_bound():
    """It is Clopper and Pearson's, and lies above the truth as seldom as alpha says."""
    for successes, trials in ((0, 10), (1, 10), (7, 10), (10, 10), (99_990, 100_000)):
        exact = stats.binomtest(successes, trials).proportion_ci(1 - 2 * 0.05, "exact").low
        np.testing.assert_allclose(
            lower_confidence_bound(successes, trials, 0.05), exact, rtol=1e-9
        )
    counts = np.random.default_rng(1).binomial(60, 0.8, 20_000)
    wrong = np.mean([lower_confidence_bound(int(count), 60, 0.1) > 0.8 for count in counts])
    # Exact intervals of counts cover a little more than they say.
    assert 0.04 < wrong < 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigma": 0.0}, "sigma=0.0 > 0"),
        ({"num_samples": 0}, "num_samples=0 >= 1"),
        ({"batch_size": 0}, "batch_size=0 >= 1"),
        ({"alpha": 1.0}, r"alpha=1.0 in \(0, 1\)"),
        ({"radius": 0.0}, "radius=0.0 > 0 and finite"),
        ({"radius": np.inf}, "radius=inf > 0 and finite"),
        ({"tolerance": 1.0}, r"tolerance=1.0 in \[0, 1\)"),
        ({"radius": 0.5, "tolerance": 0.1}, "one of radius=0.5 and tolerance=0.1 to be None"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        Smoothing(**({"sigma": 1.0} | fields))


def test_arguments_are_checked():
    smoothing = Smoothing(1.0, num_samples=10, batch_size=10)
    image = image_at(0.0)
    with pytest.raises(ValueError, match="floating"):
        smoothing(half_space, image.astype(np.uint8), key=KEY)
    with pytest.raises(ValueError, match="one per image"):
        smoothing(half_space, image, key=KEY, index=np.arange(2))
    with pytest.raises(ValueError, match="multiple of the 4 devices"):
        smoothing(half_space, image, key=KEY, mesh=sharding.make_mesh(4))
    with pytest.raises(ValueError, match=r"\[b c\]"):
        smoothing(lambda images, *, key: jnp.sum(images), image, key=KEY)
    with pytest.raises(ValueError, match="found NaN"):
        smoothing(lambda x, *, key: half_space(x, key=key) * jnp.nan, image, key=KEY)
    certificate = Certificate(np.asarray([1]), np.asarray([0.5]))
    with pytest.raises(ValueError, match="one per image"):
        certified_accuracy(certificate, np.asarray([1, 2]), [0.0])
    with pytest.raises(ValueError, match=">= 0"):
        certified_accuracy(certificate, np.asarray([1]), [-1.0])


def test_votes_of_a_random_function_are_its_own():
    """One that draws once a call gives a batch of copies one vote, not a batch of them."""

    def coin(images, *, key):
        side = jax.random.bernoulli(key)
        return jnp.broadcast_to(jnp.where(side, jnp.eye(2)[0], jnp.eye(2)[1]), (len(images), 2))

    model = Model.of(coin, num_classes=2, stochastic=True)
    smoothing = Smoothing(SIGMA, num_selection=64, num_samples=256, batch_size=256)
    certify = certification.certifying(smoothing, model.method, model.variables)
    images = jnp.zeros((8, 2, 2, 1))
    found = certify(images, np.zeros(8, int), key=KEY, index=np.arange(8))
    assert found.label.tolist() == [-1] * 8
