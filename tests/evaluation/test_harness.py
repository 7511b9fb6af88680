"""The harness: every example once, judged by the deployed rule, whatever devices and stops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation, rng
from robust_jax.attacks import (
    APGD,
    FGSM,
    PGD,
    AutoAttack,
    ThreatModel,
    bind,
)
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import judging, protocol, records, reductions
from robust_jax.evaluation.protocol import (
    Adversary,
    AttackRun,
    Evaluation,
    Judge,
    Selection,
    side_by_side,
)
from robust_jax.evaluation.sanity import from_records
from robust_jax.methods import KAP
from robust_jax.runtime import sharding
from tests import small


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(Digits()))


def made(method_config, data):
    """Returns a method and its variables."""
    method = method_config.make(data.task)
    return method, jax.jit(lambda key: method.init(key=key))(jax.random.key(0))


@pytest.fixture(scope="module")
def standard(data):
    return made(small.config().method, data)


@pytest.fixture(scope="module")
def noisy(data):
    return made(small.noisy(), data)


@pytest.fixture(params=["standard", "noisy"])
def model(request):
    """Both in turn: what the harness promises of every method."""
    return request.getfixturevalue(request.param)


# Where each compiles an evaluator of its own.
BOTH_MODELS = pytest.mark.parametrize(
    "model", ["standard", pytest.param("noisy", marks=pytest.mark.slow)], indirect=True
)
EVALUATORS = {}


def records_of(model, data, *, num_devices=1, directory=None, **fields):
    """Returns the records of the small evaluation; compiled once for a model and the fields."""
    method, variables = model
    mesh = sharding.make_mesh(num_devices)
    wanted = dataclasses.replace(small.config().evaluation, **fields)
    name = method.predict, num_devices, repr(wanted)
    if name not in EVALUATORS:
        EVALUATORS[name] = evaluation.make_evaluator(method, wanted, mesh)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    return evaluation.evaluate(EVALUATORS[name], variables, data.test, directory=directory)


def decisions(records):
    return {
        name: [(r.index, r.label, r.decisions) for r in found.values()]
        for name, found in records.items()
    }


@pytest.mark.slow
@BOTH_MODELS
def test_records_do_not_depend_on_devices_or_batch_size(model, data):
    one = records_of(model, data)
    assert list(one["clean"]) == list(range(90))
    assert decisions(records_of(model, data, num_devices=4)) == decisions(one)
    if not model[0].stochastic:
        assert decisions(records_of(model, data, batch_size=64)) == decisions(one)


@pytest.mark.quick_one_in(2)
def test_the_harness_keeps_the_ball_and_measures(model, data):
    found = records_of(model, data)
    attacked = [r for r in found["pgd"].values() if r.linf > 0]
    assert attacked
    assert max(r.linf for r in attacked) <= 0.1 + 1e-6
    assert max(r.l2 for r in attacked) <= 0.1 * 8 + 1e-5
    assert all(r.linf == r.l2 == r.l1 == r.l0 == 0 for r in found["clean"].values())
    # FGSM is one step; PGD's three are one forward pass more, by which the end is judged.
    assert all(r.passes is None for r in found["clean"].values())
    attacked = [row for row, record in found["clean"].items() if record.headline().correct]
    assert all(found["fgsm"][row].passes == [1, 1] for row in attacked)
    assert all(found["pgd"][row].passes == [4, 3] for row in attacked)


@BOTH_MODELS
def test_misclassified_examples_are_left_alone_or_attacked(model, data):
    skipped = records_of(model, data)
    wrong = [row for row, record in skipped["clean"].items() if not record.headline().correct]
    assert wrong
    assert all(skipped["pgd"][row] == skipped["clean"][row] for row in wrong)
    fields = {"adversary": Adversary(skip_misclassified=False)}
    attacked = records_of(model, data, **fields)
    assert all(attacked["pgd"][row].linf > 0 for row in wrong)
    wanted = dataclasses.replace(small.config().evaluation, **fields)
    summary = reductions.summarize(attacked, wanted)
    right = {row for row, record in attacked["clean"].items() if record.headline().correct}
    both = sum(attacked["pgd"][row].headline().correct for row in right)
    assert summary["robust_accuracy"]["pgd"] == both / 90


@pytest.mark.slow
def test_predicted_labels_are_what_the_attack_leaves(standard, data):
    method, variables = standard
    fields = {"adversary": Adversary(labels="predicted", skip_misclassified=False)}
    found = records_of(standard, data, **fields)
    labels = jnp.asarray(
        [record.headline().prediction for record in found["clean"].values()], jnp.int32
    )
    images = jnp.asarray(data.test.arrays[0][:90] / 255, jnp.float32)
    view = bind(method.views["deployed"], variables)
    attacked = FGSM(small.THREAT)(view, images, labels, key=jax.random.key(0))
    expected = jnp.argmax(view(attacked, key=jax.random.key(0)), -1).tolist()
    assert [record.headline().prediction for record in found["fgsm"].values()] == expected
    assert any(not record.headline().correct for record in found["clean"].values())


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("cut", ["in a line", "in a batch", "between batches"])
def test_stopped_evaluation_goes_on(model, data, tmp_path, cut):
    expected = records_of(model, data, directory=tmp_path)
    file, seconds = tmp_path / "records" / "clean.jsonl", tmp_path / "seconds.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    keep = {"in a line": 47, "in a batch": 47, "between batches": 40}[cut]
    file.write_text("".join(lines[:keep]) + (lines[keep][:9] if cut == "in a line" else ""))
    (tmp_path / "records" / "pgd.jsonl").unlink()
    # What is done again counts once.
    for name in ("clean", "pgd"):
        records.append_lines(seconds, [{"name": name, "seconds": 1e6, "num_done": 80}])
    assert decisions(records_of(model, data, directory=tmp_path)) == decisions(expected)
    assert len(file.read_text().splitlines()) == 90
    read = records.read_records(tmp_path)
    assert read["clean"] == expected["clean"]
    assert all(0 < took < 1e6 for took in records.seconds_by_attack(tmp_path).values())
    index, shown = records.read_shown(tmp_path, "pgd")
    assert shown.shape == (8, 8, 8, 1)
    assert list(index) == [row for row, record in expected["pgd"].items() if record.linf > 0][:8]


def test_foreign_records_are_refused(model, data, tmp_path):
    records_of(model, data, directory=tmp_path)
    file = tmp_path / "records" / "clean.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[5:] + lines[:5]))
    with pytest.raises(ValueError, match="to hold this evaluation's examples in order"):
        records_of(model, data, directory=tmp_path)


def test_judges_of_a_random_method(noisy, data):
    method, variables = noisy
    images = np.asarray(data.test.arrays[0][:6] / 255, np.float32)
    key = jax.random.key(1)

    def scores(key, images=images, **fields):
        predict = jax.jit(judging.predictor(method, Judge(**fields), 0))
        return predict(variables, images, key=key)

    keys = rng.per_example(key, jnp.arange(6))  # each row's own

    @jax.jit
    def draw(n):
        def predict(image, key):
            return method.predict(variables, image[None], key=rng.stream(key, "draw", n))[0]

        return jax.nn.softmax(jax.vmap(predict)(images, keys))

    draws = [draw(n) for n in range(3)]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(scores(key, num_draws=3), draws)
    close(scores(key, rule="paper"), draws[:1])
    quiet = jax.nn.softmax(jax.jit(method.views["noise_off"])(variables, images))
    close(scores(key, rule="paper", view="noise_off")[0], quiet)
    # A function of the image alone: neither the key, nor the row, nor its neighbours.
    fixed = scores(key, rule="fixed", num_draws=3)
    other = scores(jax.random.key(2), images[::-1], rule="fixed", num_draws=3)[:, ::-1]
    np.testing.assert_allclose(fixed, other, rtol=1e-5, atol=1e-7)
    assert not np.allclose(fixed[0], fixed[1], atol=1e-3)
    # What "fixed" judges is what a run with fixed draws attacks.
    view = judging.averaged(bind(method.views["deployed"], variables), 3, 0)
    close(np.exp(jax.jit(lambda i: view(i, key=key))(images)), np.mean(fixed, axis=0))


@pytest.mark.slow
def test_columns_judge_the_same_images(data):
    louder = made(KAP(network=small.NETWORK, sigma=20.0), data)
    judges = side_by_side(Judge(view="noise_off", rule="paper"), Judge(num_draws=4))
    attacks = {
        "fgsm": AttackRun(FGSM(small.THREAT), view="noise_off"),
        "pgd": AttackRun(PGD(small.THREAT, num_steps=3), eot_samples=2, adaptive=True),
    }
    fields = {"judges": judges, "attacks": attacks, "worst_of": {"any": ("fgsm", "pgd")}}
    fields |= {"adversary": Adversary(skip_misclassified=False, num_submissions=0)}
    wanted = dataclasses.replace(small.config().evaluation, **fields)
    found = records_of(louder, data, **fields)
    summary = reductions.summarize(found, wanted)["judges"]
    assert list(summary["paper"]["robust_accuracy"]) == ["fgsm"]
    assert list(summary["honest"]["robust_accuracy"]) == ["fgsm", "pgd"]
    ball = "linf eps 0.1"
    worst = {name: judge["worst_case_accuracy"][ball] for name, judge in summary.items()}
    assert worst["paper"] == summary["paper"]["robust_accuracy"]["fgsm"]
    assert worst["honest"] == summary["honest"]["worst_of"]["any"]
    alone = records_of(louder, data, **fields | {"judges": {"x": Judge(num_draws=4)}})
    for row, record in found["pgd"].items():
        assert record.decisions["honest"] == alone["pgd"][row].decisions["x"]
    shares = {record.decisions["honest"].share_correct for record in found["clean"].values()}
    assert shares <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert len(shares) > 2


@pytest.mark.slow
def test_transfer_is_attacked_on_the_source_and_judged_by_the_model(standard, data):
    method, variables = standard
    source = jax.jit(lambda key: method.init(key=key))(jax.random.key(1))
    runs = {"own": AttackRun(FGSM(small.THREAT)), "sent": AttackRun(FGSM(small.THREAT), source="s")}
    mesh = sharding.make_mesh(1)
    fields = {"attacks": runs, "adversary": Adversary(labels="predicted")}
    wanted = dataclasses.replace(small.config().evaluation, **fields)
    evaluator = evaluation.make_evaluator(method, wanted, mesh, {"s": method})
    sources = {"s": source}
    found = evaluation.evaluate(evaluator, variables, data.test, sources=sources)
    images = jnp.asarray(data.test.arrays[0][:90] / 255, jnp.float32)
    on_source, key = bind(method.views["deployed"], source), jax.random.key(0)
    labels = jnp.argmax(on_source(images, key=key), -1)
    sent = FGSM(small.THREAT)(on_source, images, labels, key=key)
    expected = jnp.argmax(method.predict(variables, sent, key=None), -1).tolist()
    assert [record.headline().prediction for record in found["sent"].values()] == expected
    assert all(record.linf > 0 for record in found["sent"].values())
    with pytest.raises(ValueError, match=r"Expected sources=\[\] to be \['s'\]"):
        evaluation.make_evaluator(method, wanted, mesh)


def test_selections(standard, data):
    def clean(**fields):
        return records_of(standard, data, attacks={}, **fields)["clean"]

    everything = clean(selection=Selection())
    right = [row for row, record in everything.items() if record.headline().correct]
    drawn = Selection(rule="random", num_examples=50)
    random = list(clean(selection=drawn))
    assert len(set(random)) == 50
    assert random == sorted(random) != list(range(50))
    assert list(clean(selection=drawn, seed=1)) != random
    assert list(clean(selection=Selection(rule="correct", num_examples=7))) == right[:7]
    labels = [everything[row].label for row in right]
    firsts = [row for n, row in enumerate(right) if labels[:n].count(labels[n]) < 2]
    wanted = Selection(rule="correct_per_class", num_examples=2)
    assert list(clean(selection=wanted)) == firsts


@pytest.mark.slow
def test_suites_run_on_the_host(standard, data, tmp_path):
    apgd = APGD(small.THREAT, num_steps=3)
    suite = AutoAttack(small.THREAT, version="custom", attacks=(apgd,), batch_size=40)
    runs = {"apgd": AttackRun(apgd), "suite": AttackRun(suite)}
    found = records_of(standard, data, attacks=runs, directory=tmp_path)
    for row, record in found["suite"].items():
        assert record.linf <= 0.1 + 1e-6
        # What the attack alone fools the suite fools; what it does not is given back clean.
        assert record.headline().correct == found["apgd"][row].headline().correct
        assert record.linf == 0 or not record.headline().correct
        # The suite asks twice forward and once back of the clean images, and judges its end.
        if record.passes is not None:
            assert found["apgd"][row].passes == [4, 4]
            assert record.passes == [4 + 3, 4 + 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attacks": {"clean": AttackRun(FGSM(small.THREAT))}}, "to leave the name 'clean'"),
        ({"attacks": {"a@b": AttackRun(FGSM(small.THREAT))}}, "name='a@b' without"),
        ({"worst_of": {"all": ("fgsm", "x")}}, r"to name attacks, found \['x'\]"),
        ({"judges": {}}, "Expected judges={} to name at least one"),
        ({"attacks": {"a": AttackRun(FGSM(small.THREAT), view="x")}}, "Expected view='x' to be"),
        ({"batch_size": 6, "num_devices": 4}, "Expected batch_size=6 to be a multiple of the 4"),
    ],
)
def test_mistakes_are_found_before_work(model, data, fields, message):
    with pytest.raises(ValueError, match=message):
        records_of(model, data, **fields)


def test_scores_that_are_no_numbers(data, standard):
    method, variables = standard

    def broken(function, where):
        def scores(variables, images, *, key=None):
            found = function(variables, images, key=key)
            return jnp.where(where(images)[:, None], jnp.nan, found)

        return scores

    def has_moved(images):  # a stored pixel is a byte
        return jnp.any(jnp.abs(255 * images - jnp.round(255 * images)) > 1e-3, axis=(1, 2, 3))

    def records_where(where):
        names = {name: broken(view, where) for name, view in method.views.items()}
        model = method._replace(predict=broken(method.predict, where), views=names)
        config = Evaluation(
            attacks={"fgsm": AttackRun(FGSM(ThreatModel("linf", 0.05)))},
            selection=Selection(num_examples=64),
            batch_size=64,
        )
        evaluator = evaluation.make_evaluator(model, config, sharding.make_mesh(1))
        return config, evaluation.evaluate(evaluator, variables, data.test)

    config, found = records_where(has_moved)
    attacked = [record.headline() for record in found["fgsm"].values()]
    right = [record.headline().correct for record in found[protocol.CLEAN].values()]
    # An example that is wrong already is skipped.
    assert [d.prediction for d in attacked if d.prediction < 0] == [-1] * sum(right) != []
    assert not any(decision.correct for decision in attacked)
    flag = from_records.check_records(found, config.attacks, config.deciding)[0]
    assert (flag.check, flag.status) == ("scores are numbers", "flag")
    with pytest.raises(ValueError, match=r"found NaN on examples \[0, 1, 2, 3,"):
        records_where(lambda images: jnp.ones(len(images), bool))
