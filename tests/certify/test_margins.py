"""Margins as a certificate: closed forms, intervals below CROWN, other checkpoints beside it."""

import json
import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation, voting
from robust_jax.certify import (
    Margins,
    SlopeAscent,
    crown_margins,
    interval_bounds,
    interval_margins,
    smallest_margin,
)
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import certification
from robust_jax.evaluation.protocol import Evaluation, Selection
from robust_jax.methods import KAP, Standard
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.runtime import sharding

EPS = 0.02
WEIGHTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["crown", "interval", "interval_elided"])
def test_a_linear_function_against_the_closed_form(bound):
    images = np.random.default_rng(1).uniform(0.1, 0.9, (20, 6)).astype(np.float32)
    labels = np.argmax(images @ WEIGHTS, axis=1)
    found = Margins(EPS, bound=bound)(lambda x: x @ WEIGHTS, images, labels)
    for image, label, margin in zip(images, labels, found.margin, strict=True):
        others = [c for c in range(3) if c != label]
        difference = WEIGHTS[:, [label]] - WEIGHTS[:, others]
        # Both logits see the same image, which a difference of their intervals does not know.
        reach = np.abs(difference).sum(0)
        if bound == "interval":
            reach = np.abs(WEIGHTS[:, [label]]).sum(0) + np.abs(WEIGHTS[:, others]).sum(0)
        np.testing.assert_allclose(margin, np.min(image @ difference - EPS * reach), atol=1e-5)
    holds = found.margin > 0
    assert 0 < holds.sum() < 20
    assert found.label.tolist() == np.where(holds, labels, -1).tolist()
    assert found.radius.tolist() == np.where(holds, EPS, 0).tolist()


def leaning(method, key):
    """Returns fresh variables of a network that takes every image for a 3."""

    def lean(path, leaf):
        is_bias = [entry.key for entry in path[-2:]] == ["linear", "bias"]
        return leaf.at[..., 3].add(2.0) if is_bias else leaf

    start = jax.jit(lambda key: method.init(key=key))(key)
    return jax.tree_util.tree_map_with_path(lean, start)


@pytest.mark.slow
def test_evaluated_beside_other_checkpoints(tmp_path):
    """An ensemble and a network on images that both get right; bounds hold on random neighbours."""
    data, mesh = open_data(DataConfig(Digits())), sharding.make_mesh(1)
    network = CNNConfig(widths=(4,), strides=(2,))
    method = Standard(network=EnsembleConfig(network, 2)).make(data.task)
    other = Standard(network=network).make(data.task)
    variables, others = (leaning(m, jax.random.key(n)) for n, m in enumerate((method, other)))
    wanted = Evaluation(
        certificates={"crown": Margins(EPS), "interval": Margins(EPS, bound="interval")},
        others=("plain",),
        selection=Selection(rule="correct", num_examples=3),
    )
    evaluator = evaluation.make_evaluator(method, wanted, mesh, {"plain": other})
    records = evaluation.evaluate(evaluator, variables, data.test, sources={"plain": others})
    rows = np.asarray(list(records["clean"]))
    found = {}
    for name, model in ((None, (method, variables)), ("plain", (other, others))):
        found |= certification.certify(
            wanted.certificates,
            *model,
            data.test,
            rows,
            mesh,
            precision="highest",
            seed=0,
            directory=tmp_path,
            other=name,
        )
    assert list(found) == certification.names(wanted.certificates, ["plain"])
    assert list(found) == ["crown", "interval", "crown@plain", "interval@plain"]
    scores = jax.jit(lambda variables, images: method.predict(variables, images, key=None))
    for number, row in enumerate(rows):
        image = data.test.arrays[0][row] / 255
        draws = np.random.default_rng(number).uniform(-EPS, EPS, (200, *image.shape))
        near = jnp.asarray(np.clip(image + draws, 0, 1), jnp.float32)
        values = np.asarray(scores(variables, near))
        label = found["crown"][1][number]
        rest = np.delete(values, label, axis=1)
        smallest = np.min(values[:, [label]] - rest)
        crown, interval = (found[name][0].margin[number] for name in ("crown", "interval"))
        # Rounding of float32.
        assert interval <= crown <= smallest + 1e-5
    noisy = KAP(network=network, sigma=0.1).make(data.task)
    with pytest.raises(ValueError, match="without randomness"):
        evaluation.make_evaluator(noisy, wanted, mesh, {"plain": other})


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_images_are_certified_some_at_once_and_gone_on_with(tmp_path, num_devices):
    data, mesh = open_data(DataConfig(Digits())), sharding.make_mesh(num_devices)
    method = Standard(network=CNNConfig(widths=(4,), strides=(2,))).make(data.task)
    variables = jax.device_put(leaning(method, jax.random.key(0)), sharding.replicated(mesh))
    certifier = Margins(EPS, bound="interval")
    rows, done = np.arange(30, 49), []

    def certified():
        ((found, labels),) = certification.certify(
            {"interval": certifier}, method, variables, data.test, rows, mesh, precision="highest",
            seed=0, directory=tmp_path, on_image=lambda name, number, total: done.append(number),
        ).values()  # fmt: skip
        return found, labels

    found, labels = certified()
    assert done == [0, 8, 16, 19]
    images = np.asarray(data.test.arrays[0][rows] / 255, np.float32)
    np.testing.assert_array_equal(labels, data.test.arrays[1][rows])
    scores = jax.tree_util.Partial(certification.mean_logits(method), variables)
    alone = certifier(scores, images, labels)
    np.testing.assert_allclose(found.margin, alone.margin, rtol=1e-5, atol=1e-5)
    file = tmp_path / "certificates" / "interval.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert [json.loads(line)["index"] for line in lines] == rows.tolist()
    file.write_text("".join(lines[:5]))
    again, _ = certified()
    assert done[4:] == [5, 13, 19]
    for one, other in zip(again[:3], found[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"eps": 0.0},
        {"eps": math.inf},
        {"chunk_size": 0},
        {"tolerance": 0.0},
        {"bound": "interval", "ascent": SlopeAscent()},
    ],
)
def test_fields_are_checked(fields):
    with pytest.raises(ValueError, match="Expected "):
        Margins(**{"eps": 0.1, **fields})


def test_scores_behind_a_softmax_have_no_size():
    images = np.full((1, 6), 0.5, np.float32)
    with pytest.raises(ValueError, match="Expected logits in front of the softmax"):
        Margins(EPS)(lambda x: jax.nn.softmax(x @ WEIGHTS), images, [0])


@pytest.mark.slow
def test_slopes_are_the_fields(random_network):
    function = random_network(CNNConfig((2, 4), (2, 2)), (8, 8, 1))
    images = jax.random.uniform(jax.random.key(2), (2, 8, 8, 1), minval=0.1, maxval=0.9)
    labels = jnp.argmax(function(images), axis=1)
    eps, ascent = 0.1, SlopeAscent(5)
    found = Margins(eps, ascent=ascent)(function, images, labels).margin
    margins = crown_margins(function, images, labels, eps, ascent=ascent)
    np.testing.assert_array_equal(found, smallest_margin(margins, labels))
    assert np.all(found > Margins(eps)(function, images, labels).margin)


OUTVOTED = jnp.asarray([[30.0, 0.0], [0.0, 3.0], [0.0, 3.0]])


def outvoted(images):
    """Returns members' logits that hardly depend on the images: one for class 0, two for 1."""
    return OUTVOTED[:, None] + 1e-3 * jnp.sum(images, axis=-1)[None, :, None]


@pytest.mark.quick_one_in(6)
@pytest.mark.parametrize(
    "bound",
    ["crown", *[pytest.param(n, marks=pytest.mark.slow) for n in ("interval", "interval_elided")]],
)
@pytest.mark.parametrize("vote", get_args(voting.Vote))
def test_the_vote_is_certified_and_not_the_mean_logit(vote, bound):
    """The mean logit is (10, 2); every other rule decides for class 1."""
    images = jnp.full((2, 3), 0.5)
    decided = jnp.argmax(voting.scores(outvoted(images), vote), axis=1)
    assert decided.tolist() == [0 if vote == "mean_logit" else 1] * 2
    found = Margins(0.01, bound=bound)(outvoted, images, jnp.asarray([0, 1]), vote=vote)
    assert found.label.tolist() == [0, -1] if vote == "mean_logit" else [-1, 1]


NUM_ENSEMBLES, NUM_MEMBERS, NUM_IMAGES = 20, 3, 4


def ensemble(weights, images):
    """Returns the logits [m b c] of three networks of one hidden layer."""
    first, second = weights
    hidden = jax.nn.relu(jnp.einsum("bi,mio->mbo", images - 0.5, first))
    return jnp.einsum("mbo,moc->mbc", hidden, second)


def test_elided_intervals_lie_between_intervals_and_what_corners_reach():
    """Of several networks, whose margins do not mix, and of ReLUs last, with nothing to elide."""
    rng, eps = np.random.default_rng(4), 0.05
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 4, 5), (3, 5, 3))]
    images = rng.uniform(eps, 1 - eps, (6, 4)).astype(np.float32)
    labels = np.arange(6) % 3
    corners = np.stack(np.meshgrid(*[[-eps, eps]] * 4), -1).reshape(-1, 1, 4).astype(np.float32)

    def networks(x):
        return jnp.moveaxis(ensemble(weights, x), 0, 1)

    for function in (networks, lambda x: jax.nn.relu(networks(x)[:, 0])):

        @jax.jit
        def run(images, function=function):
            box = images - eps, images + eps
            near = jax.vmap(function)(images[None] + corners)
            return interval_margins(function, *box, labels), interval_bounds(function, *box), near

        found, (lower, upper), near = run(images)

        def of_label(array):
            places = labels.reshape(-1, *[1] * (array.ndim - 1))
            return np.take_along_axis(np.asarray(array), places, -1)

        reached = np.min([of_label(each) - each for each in near], axis=0)
        others = np.arange(3) != labels.reshape(-1, *[1] * (lower.ndim - 1))
        assert np.all(np.where(others, of_label(lower) - upper, 0) <= found + 1e-5)
        assert np.all(found <= np.where(others, reached, 0) + 1e-5)


@pytest.mark.slow
def test_margins_of_votes_hold_on_twenty_ensembles():
    """On corners and points of the ball, and where attacks on the vote's margin end."""
    rng, eps = np.random.default_rng(3), 0.05
    shapes = [(NUM_ENSEMBLES, NUM_MEMBERS, 6, 8), (NUM_ENSEMBLES, NUM_MEMBERS, 8, 3)]
    weights = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    images = jnp.asarray(rng.uniform(eps, 1 - eps, (NUM_ENSEMBLES, NUM_IMAGES, 6)), jnp.float32)
    steps = rng.uniform(-eps, eps, (300, 1, 6)).astype(np.float32)
    steps[::2] = eps * np.sign(steps[::2])

    def attacked(weights, images, vote):
        """Returns where twenty steps down the margin of the vote's logits end."""

        def logits(near):
            return voting.logits(ensemble(weights, near), vote)

        own = jax.nn.one_hot(jnp.argmax(logits(images), axis=1), 3, dtype=bool)

        def margin(near):
            found = logits(near)
            rest = jnp.max(jnp.where(own, -jnp.inf, found), axis=1)
            return jnp.sum(jnp.sum(jnp.where(own, found, 0), axis=1) - rest)

        def step(near, _):
            near = near - 0.01 * jnp.sign(jax.grad(margin)(near))
            return jnp.clip(near, images - eps, images + eps), None

        return jax.lax.scan(step, images, length=20)[0]

    def of_one(given):
        weights, images = given
        # Margins of every class at every image: [label b m c].
        copies, labels = jnp.tile(images, (3, 1)), jnp.repeat(jnp.arange(3), NUM_IMAGES)
        margins = crown_margins(
            lambda x: jnp.moveaxis(ensemble(weights, x), 0, 1), copies, labels, eps,
            intermediate="interval",
        ).reshape(3, NUM_IMAGES, NUM_MEMBERS, 3)  # fmt: skip
        ends = [attacked(weights, images, vote)[None] for vote in ("mean_logit", "borda")]
        near = jnp.concatenate([images[None], images[None] + steps, *ends])
        logits = ensemble(weights, near.reshape(-1, 6))
        found = {}
        for vote in get_args(voting.Vote):
            scores = voting.scores(logits, vote).reshape(*near.shape[:2], 3)
            label = jnp.argmax(scores[0], axis=1)
            own = jnp.take_along_axis(scores, label[None, :, None], axis=2)
            bounds = voting.margins(margins[label, jnp.arange(NUM_IMAGES)], label, vote)
            found[vote] = bounds, jnp.min(own - scores, axis=0), label
        return found

    found = jax.jit(lambda given: jax.lax.map(of_one, given))((weights, images))
    for vote, (bounds, reached, labels) in found.items():
        # Rounding of float32: the bounds of scores that are shares or counts are exact.
        assert jnp.all(bounds <= reached + 1e-5), vote
        own = jax.nn.one_hot(labels, 3, dtype=bool)
        holds, stands = (jnp.all(own | (found > 0), axis=2) for found in (bounds, reached))
        # A certificate of some images, and not of all: others fall.
        assert 4 < holds.sum() <= stands.sum() < NUM_ENSEMBLES * NUM_IMAGES, vote


@pytest.mark.slow
def test_values_inside_count_as_the_scores_do():
    """Of sums of 20,000 the last digit is a five-hundredth: as much as the margin is."""
    weights = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])

    def logits(images):
        first = jax.nn.relu(images[:, :1] + 2e4)
        second = jax.nn.relu(images[:, 1:] + 0.1)
        return jnp.concatenate([first, second], axis=1) @ weights - jnp.asarray([[2e4, 0.1]])

    images, labels = jnp.asarray([[0.50295, 0.5023]]), jnp.asarray([0])
    inside = images + jnp.asarray([[-9e-5, 9e-5]])
    assert jnp.argmax(logits(images)) == 0
    assert jnp.argmax(logits(inside)) == 1
    assert Margins(1e-4)(logits, images, labels).label.tolist() == [-1]
    # Of the same function in other units of its hidden values nothing is lost.
    other = Margins(1e-4)(lambda x: jax.nn.relu(x + 0.1) @ weights, images, labels)
    assert other.label.tolist() == [0]
