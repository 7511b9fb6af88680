"""Transfer: images shrink and move, each field of MIM by a plain loop, several sources at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from robust_jax import attacks, rng, serialization
from robust_jax.attacks import MDI2FGSM, MIM, ThreatModel, losses
from robust_jax.attacks.runs import Given, Run
from robust_jax.attacks.transfer import DiverseView

KEY = jax.random.key(31)


@pytest.mark.slow
def test_white_images_shrink_to_the_share_drawn():
    images, index = jnp.ones((64, 8, 8, 1)), jnp.arange(64)
    view = attacks.as_view(lambda images: jnp.mean(images, axis=(1, 2)))

    @partial(jax.jit, static_argnums=2)
    def seen(images, index, probability):
        return DiverseView(view, index, probability, 0.5)(images, key=KEY)[:, 0]

    shrunk = seen(images, index, 1.0)
    # The share of the area that is left, up to the rounding of edges to pixels.
    assert 0.2 < float(shrunk.min()) < 0.35 < 0.8 < float(shrunk.max()) <= 1
    part = seen(images[5:9], index[5:9], 1.0)
    np.testing.assert_allclose(part, shrunk[5:9], atol=1e-6)
    half = seen(images, index, 0.5)
    assert 20 <= int(jnp.sum(half == 1)) <= 44


@pytest.mark.slow
def test_without_transformations_it_is_mim(digits):
    threat = ThreatModel("linf", 0.1)
    still = MDI2FGSM(threat, num_steps=3, probability=0.0)(*digits, key=KEY)
    np.testing.assert_allclose(still, MIM(threat, num_steps=3)(*digits, key=KEY), atol=1e-6)


def test_what_was_stored_before_is_the_same_attack():
    threat = ThreatModel("linf", 0.1)
    of_all = {"threat": serialization.to_json(threat), "loss": "cross_entropy", "targeted": False}
    of_all |= {"num_steps": 10, "step_size": None, "decay": 1.0}
    for stored, attack in (
        ({"type": "MIM", **of_all}, MIM(threat)),
        ({"type": "MDI2FGSM", **of_all, "probability": 0.5, "smallest": 0.9}, MDI2FGSM(threat)),
    ):
        assert serialization.from_json(attacks.Attack, stored) == attack


def kernel(size):
    """A Gaussian kernel of three standard deviations either way."""
    places = np.linspace(-3, 3, size)
    raw = np.exp(-0.5 * (places[:, None] ** 2 + places[None] ** 2))
    return raw / raw.sum()


def plain_mim(attack, victim, draws):
    """MIM with NI, SI, VMI and TI as their papers say them, with these draws around the images."""
    images, eps = np.asarray(victim.images, float), attack.threat.eps
    length = eps / attack.num_steps

    @jax.jit
    def slope(points):
        def loss(points):
            logits = victim.view(points, key=None)
            return -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(len(logits)), victim.labels])

        return jax.grad(loss)(points)

    def gradient(points):
        scales = [0.5**i for i in range(attack.num_scales)]
        return np.mean([s * np.asarray(slope(jnp.float32(s * points))) for s in scales], axis=0)

    points, momentum, tuning = images, np.zeros_like(images), np.zeros_like(images)
    for number in range(attack.num_steps):
        ahead = points + attack.decay * length * momentum if attack.nesterov else points
        here = gradient(ahead)
        direction = here + tuning
        if attack.num_neighbours:
            near = [points + attack.neighbourhood * eps * draw for draw in draws[number]]
            tuning = np.mean([gradient(each) for each in near], axis=0) - here
        if attack.kernel_size > 1:
            direction = np.stack(
                [
                    ndimage.convolve(one[..., 0], kernel(attack.kernel_size), mode="constant")
                    for one in direction
                ]
            )[..., None]
        size = np.mean(np.abs(direction), axis=(1, 2, 3), keepdims=True)
        momentum = attack.decay * momentum + direction / size
        points = np.clip(points + length * np.sign(momentum), images - eps, images + eps)
        points = np.clip(points, 0, 1)
    return points


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, marks=pytest.mark.slow, id="mi"),
        pytest.param({"nesterov": True}, marks=pytest.mark.slow, id="ni"),
        pytest.param({"num_scales": 5}, marks=pytest.mark.slow, id="si"),
        pytest.param({"kernel_size": 5}, marks=pytest.mark.slow, id="ti"),
        pytest.param({"num_neighbours": 3}, marks=pytest.mark.slow, id="vmi"),
        pytest.param(
            {"nesterov": True, "num_scales": 3, "kernel_size": 3, "num_neighbours": 2}, id="all"
        ),
    ],
)
def test_steps_by_a_plain_loop(fields, digits):
    attack = MIM(ThreatModel("linf", 0.1), num_steps=4, decay=0.9, **fields)
    root = rng.stream(KEY, "view", 0)
    draws = [
        [
            jax.vmap(lambda key: jax.random.uniform(key, (8, 8, 1), minval=-1, maxval=1))(
                rng.per_example(rng.stream(root, "around", number, neighbour), jnp.arange(16))
            )
            for neighbour in range(attack.num_neighbours)
        ]
        for number in range(attack.num_steps)
    ]
    found, expected = attack(*digits, key=KEY), plain_mim(attack, digits, draws)
    # A derivative within rounding of zero has either sign: a step of eps / 2 at a few pixels.
    apart = np.abs(np.asarray(found) - expected) > 1e-5
    assert apart.mean() < 0.005
    assert np.abs(expected - np.asarray(digits.images)).max() > 0.09


def test_whatever_gradients_are_of_the_end_is_judged_as_it_is(digits):
    """Nothing is left of an image at a hundredth of its size, whose class is another's."""
    attack = MDI2FGSM(ThreatModel("linf", 0.0), num_steps=1, probability=1.0, smallest=0.01)
    given = Given(digits.view, digits.images, digits.labels, KEY, jnp.arange(16))
    assert not jax.jit(lambda: attack.run(Run(0, restart=0), given).success)().any()


def test_several_sources(digits):
    other = attacks.as_view(lambda images: 2 * digits.view(jnp.flip(images, 1), key=None))
    views, labels = (digits.view, other), digits.labels

    def gradient(view, images):
        return losses.gradient(losses.cross_entropy, view, images, labels, key=KEY)[:2]

    @jax.jit
    def alone_and_together(images):
        averages = ("gradients", "logits", "probabilities")
        together = {each: attacks.ensemble(views, average=each) for each in averages}
        return (
            [gradient(view, images) for view in views],
            gradient(together["gradients"], images),
            [view(images, key=KEY) for view in views],
            [together[each](images, key=KEY) for each in averages[1:]],
        )

    (one, two), both, logits, (mean, soft) = alone_and_together(digits.images)
    for alone, other_alone, found in zip(one, two, both, strict=True):
        np.testing.assert_allclose(found, (alone + other_alone) / 2, atol=1e-6)
    np.testing.assert_allclose(mean, (logits[0] + logits[1]) / 2, atol=1e-5)
    shares = (jax.nn.softmax(logits[0]) + jax.nn.softmax(logits[1])) / 2
    np.testing.assert_allclose(jnp.exp(soft), shares, atol=1e-6)


@pytest.mark.slow
def test_each_source_is_a_pass(digits):
    sources = attacks.ensemble([digits.view, digits.view])
    attack = MIM(ThreatModel("linf", 0.1), num_steps=3)
    passes = attack.counted(sources, digits.images, digits.labels, key=KEY)[1]
    assert (passes.forward[0], passes.backward[0]) == (6, 6)


def test_rejects():
    threat = ThreatModel("linf", 0.1)
    for attack, message in (
        (lambda: MDI2FGSM(threat, smallest=0.0), r"Expected smallest=0.0 in \(0, 1\]"),
        (lambda: MIM(threat, probability=2.0), r"Expected probability=2.0 in \[0, 1\]"),
        (lambda: MIM(threat, kernel_size=4), "Expected kernel_size=4 to be odd"),
        (lambda: MIM(threat, num_scales=0), "Expected num_scales=0 >= 1"),
        (lambda: MIM(threat, num_neighbours=-1), "Expected num_neighbours=-1 >= 0"),
        (lambda: attacks.ensemble([]), "Expected views=\\[\\] to hold one"),
    ):
        with pytest.raises(ValueError, match=message):
            attack()
