"""Judging a random defence: an image has draws of its own, the same whatever attacks it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation, rng
from robust_jax.attacks import FGSM, ThreatModel
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.data.sources import ArrayExamples
from robust_jax.evaluation import Model, records, reductions
from robust_jax.evaluation.judging import predictor
from robust_jax.evaluation.protocol import Adversary, AttackRun, Evaluation, Judge, side_by_side
from robust_jax.evaluation.reductions import all_right
from robust_jax.methods import KAP, Method, RandomLayerSampling
from robust_jax.models import CNNConfig
from robust_jax.runtime import sharding
from robust_jax.types import Task
from tests import small

LINF = ThreatModel("linf", 0.05)
EVERY_IMAGE = Adversary(skip_misclassified=False)
FIVE = {f"fgsm{number}": AttackRun(FGSM(LINF)) for number in range(5)}


@pytest.fixture(scope="module")
def test_split():
    return open_data(DataConfig(Digits())).test


def random_method(predict):
    """Returns a method that predicts so, and is attacked as it predicts."""
    return Method(lambda **_: {}, lambda **_: None, predict, {"deployed": predict}, stochastic=True)


def found(method, variables, split, **fields):
    """Returns the configuration, the records and each judge's numbers under five attacks."""
    fields = {"attacks": FIVE, "batch_size": 256, "sanity": False} | fields
    config = Evaluation(**fields)
    evaluator = evaluation.make_evaluator(method, config, sharding.make_mesh(1))
    rows = evaluation.evaluate(evaluator, variables, split)
    return config, rows, reductions.summarize(rows, config)["judges"]


def coin(variables, images, *, key):
    """Class 0 four times of five, the same for all images of a call; no gradient."""
    right = jax.random.bernoulli(key, 0.8, ())
    logits = jnp.where(right, jnp.eye(10)[0], jnp.eye(10)[1])
    return jnp.broadcast_to(logits, (len(images), 10))


@pytest.mark.slow
def test_attacks_that_do_nothing_change_nothing(test_split):
    zeros = np.zeros(len(test_split), np.int32)
    images = test_split.arrays[0]
    split = dataclasses.replace(
        test_split, examples=ArrayExamples(images, zeros), rows=np.arange(len(zeros)), on_devices={}
    )
    judges = side_by_side(honest=Judge(num_draws=3))
    _, rows, numbers = found(random_method(coin), {}, split, judges=judges)
    near = 3 * 0.4 / len(zeros) ** 0.5  # three deviations of an image's draw
    for name, chance in (("paper", 0.8), ("honest", 0.8**3 + 3 * 0.2 * 0.8**2)):
        judged = numbers[name]
        accuracy = judged["clean_accuracy"]
        assert set(judged["robust_accuracy"].values()) == {accuracy}
        assert judged["worst_case_accuracy"] == {"linf eps 0.05": accuracy}
        # A method that draws once a call is judged row by row, so the interval holds.
        assert abs(accuracy - chance) < near
        assert abs(judged["single_draw"]["fgsm0"] - 0.8) < near / 10
        assert abs(judged["submissions"]["10"]["fgsm0"] - (1 - 0.8**10)) < 0.02
        assert judged["submissions"]["100"]["clean"] == 1.0
        # What independent draws, judged as often, would have left of the clean images.
        assert judged["rejudged"]["times"] == 6
        assert abs(judged["rejudged"]["accuracy"] - chance**6) < near
    _, others, _ = found(random_method(coin), {}, split, judges=judges, batch_size=100)
    for name, records_of in rows.items():  # whatever batch a row is in
        for row, record in records_of.items():
            assert others[name][row].decisions == record.decisions


@pytest.fixture(scope="module")
def noise():
    """A small trained network behind Gaussian noise, as `../shared/cases` has it."""
    train = open_data(DataConfig(Digits())).train
    images = jnp.asarray(train.arrays[0] / 255, jnp.float32).reshape(-1, 64)
    labels = jax.nn.one_hot(train.arrays[1], 10)
    root = jax.random.key(0)
    shapes = {"w1": (64, 64), "w2": (64, 10)}
    start = {
        name: jax.random.normal(rng.stream(root, name), shape) / 8 for name, shape in shapes.items()
    }

    def network(variables, images):
        return jax.nn.gelu(images.reshape(len(images), -1) @ variables["w1"]) @ variables["w2"]

    def step(carry, _):
        slope = jax.grad(
            lambda v: -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(network(v, images)), -1))
        )(carry[0])
        speed = jax.tree.map(lambda v, g: 0.9 * v + g, carry[1], slope)
        return (jax.tree.map(lambda p, v: p - 0.2 * v, carry[0], speed), speed), None

    zeros = jax.tree.map(jnp.zeros_like, start)
    trained = jax.jit(lambda: jax.lax.scan(step, (start, zeros), length=200)[0][0])()

    def noisy(variables, images, *, key):
        return network(variables, images + 0.3 * jax.random.normal(key, images.shape))

    return random_method(noisy), trained


@pytest.mark.slow
def test_five_equal_attacks_are_not_five_rolls_of_a_die(noise, test_split):
    fields = {"judges": side_by_side(), "adversary": Adversary(num_submissions=60)}
    _, _, numbers = found(*noise, test_split, **fields)
    # One judge key for all images gives .566 and .775, keys of their own .248 and .718; images
    # whose draws are independent spread by .02.
    (paper,), (honest,) = (judge["worst_case_accuracy"].values() for judge in numbers.values())
    assert 0.50 < paper < 0.63
    assert 0.74 < honest < 0.82
    # By about .1, which spreads too: the attack's own draws are a batch's.
    assert numbers["paper"]["rejudged"]["accuracy"] < paper - 0.05


@pytest.mark.slow
def test_draws_belong_to_the_row(test_split):
    task = Task((8, 8, 1), 10, 100)
    network = CNNConfig(widths=(4,), strides=(2,))
    images = np.asarray(test_split.arrays[0][:6] / 255, np.float32)
    key, index = jax.random.key(3), np.asarray([7, 7, 2, 9, 11, 0])
    kap = KAP(network=CNNConfig(widths=(16,), strides=(2,)), sigma=0.2)
    for config in (kap, RandomLayerSampling(network, num_draws=2)):
        method = config.make(task)
        variables = jax.jit(lambda key, method=method: method.init(key=key))(jax.random.key(0))
        predict = jax.jit(method.predict)
        judged = jax.jit(predictor(method, Judge(num_draws=2), 0))
        together = np.asarray(judged(variables, images, key=key, index=index))
        order = np.asarray([4, 2, 0, 5])
        part = judged(variables, images[order], key=key, index=index[order])
        np.testing.assert_allclose(part, together[:, order], rtol=1e-4, atol=1e-6)
        # One row alone, by its own key: draw n of `predict`.
        for draw in range(2):
            row_key = rng.stream(rng.per_example(key, jnp.asarray(index))[2], "draw", draw)
            alone = jax.nn.softmax(predict(variables, images[2:3], key=row_key))[0]
            np.testing.assert_allclose(together[draw, 2], alone, rtol=1e-4, atol=1e-6)
        copies = np.tile(images[:1], (6, 1, 1, 1))
        same = np.asarray(judged(variables, copies, key=key, index=index))
        assert np.allclose(same[:, 0], same[:, 1], atol=1e-6)  # of one row of the dataset
        assert not np.allclose(same[:, 0], same[:, 2], atol=1e-4)


@pytest.mark.slow
def test_a_network_drawn_for_each_row_is_differentiable_and_no_copy_of_its_weights():
    method = RandomLayerSampling(CNNConfig(widths=(4,), strides=(2,)), num_draws=2).make(
        Task((8, 8, 1), 10, 100)
    )
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (3, 1, 8, 8, 1))
    keys = rng.per_example(jax.random.key(2), jnp.arange(3))

    def score(image, key):
        return jnp.sum(method.view("decision")(variables, image, key=key)[:, 0])

    alone = jax.jit(jax.grad(score))
    slopes = jax.jit(jax.vmap(jax.grad(score)))(images, keys)
    for image, key, slope in zip(images, keys, slopes, strict=True):
        np.testing.assert_allclose(slope, alone(image, key), rtol=1e-4, atol=1e-6)
    mapped = jax.make_jaxpr(jax.vmap(lambda image, key: method.predict(variables, image, key=key)))(
        images, keys
    )
    kernels = [
        eqn.invars[1].aval.shape
        for eqn in equations(mapped.jaxpr)
        if eqn.primitive.name == "conv_general_dilated"
    ]
    assert kernels
    assert set(kernels) == {(3, 3, 1, 4)}


def equations(jaxpr):
    """Yields the equations of a program, inner ones too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda each: hasattr(each, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_draws_of_16_bits_are_averaged_in_float32():
    """The softmax of a draw too, else two of 2,000 images have another class."""
    members = jax.random.normal(jax.random.key(3), (20, 2000, 3)).astype(jnp.bfloat16)

    def scores(images, *, key):
        number = jax.random.randint(key, (), 0, 20)
        return members[number, jnp.round(images[:, 0, 0, 0]).astype(int)]

    model = Model.of(scores, num_classes=3, stochastic=True)
    judge = predictor(model.method, Judge(num_draws=5), 0)
    images = jnp.arange(2000.0).reshape(-1, 1, 1, 1)
    half = judge(model.variables, images, key=jax.random.key(1))
    assert half.dtype == jnp.float32
    expected = jax.nn.softmax(members.astype(jnp.float32))
    # Each is the softmax of one of the draws, unrounded.
    nearest = jnp.abs(half[:, None] - expected[None]).max(-1).min(1)
    assert nearest.max() < 1e-6


def test_the_chance_of_many_draws_is_estimated_without_bias():
    chance, drawn, times = 0.9, 20, 6
    counts = np.arange(drawn + 1)
    estimates = np.asarray([all_right(count / drawn, drawn, times) for count in counts])
    seen = np.random.default_rng(0).binomial(drawn, chance, 200_000)
    mean = np.mean(estimates[seen])
    assert abs(mean - chance**times) < 2e-3
    assert all_right(1.0, drawn, drawn) == 1.0
    assert all_right(1 - 1 / drawn, drawn, drawn) == 0.0


def test_what_a_column_counts():
    judges = {
        "both": Judge(),
        "after": Judge(counts="attacked"),
        "given": Judge(counts="given_clean_correct"),
    }

    def rows_of(rights):
        decisions = [records.Decision(1 - r, bool(r), [0], float(r), float(r)) for r in rights]
        return {
            number: records.Record(number, 0, 0.0, 0.0, False, dict.fromkeys(judges, decision))
            for number, decision in enumerate(decisions)
        }

    attacks = {"fgsm": AttackRun(FGSM(small.THREAT))}
    rows = {"clean": rows_of([1, 1, 0, 0, 1]), "fgsm": rows_of([1, 0, 1, 0, 1])}
    wanted = Evaluation(attacks=attacks, judges=judges, adversary=EVERY_IMAGE)
    numbers = reductions.summarize(rows, wanted)["judges"]
    expected = {"both": 2 / 5, "after": 3 / 5, "given": 2 / 3}
    for name, value in expected.items():
        assert numbers[name]["robust_accuracy"] == {"fgsm": value}
        # The clean image lies in the ball.
        worst = 2 / 5 if name == "after" else value
        assert numbers[name]["worst_case_accuracy"] == {"linf eps 0.1": worst}
        assert numbers[name]["clean_accuracy"] == 3 / 5
    with pytest.raises(ValueError, match="skip_misclassified=True to be False: judge 'after'"):
        Evaluation(attacks=attacks, judges=judges)


def test_what_is_set_aside_takes_its_summary_with_it(tmp_path):
    """A summary of records that are no more would be read as this evaluation's."""
    file, summary = tmp_path / "records" / "a.jsonl", tmp_path / "summary.json"
    summary.write_text("{}")
    today = records.Decision(0, True, [0], 1.0, 1.0)
    for decision, stays in ((today, True), (today._replace(share_rejudged=None), False)):
        file.unlink(missing_ok=True)
        line = records.Record(0, 0, 0.0, 0.0, False, {"honest": decision}).to_json()
        records.append_lines(file, [line])
        records.set_aside(file)
        assert file.is_file() == summary.is_file() == stays
    assert (tmp_path / "records" / "a.jsonl.format2").is_file()
