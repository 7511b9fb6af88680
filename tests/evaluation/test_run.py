"""One way to judge any model: functions of images, with captured arrays or as arguments."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import data, evaluation, serialization
from robust_jax.attacks import FGSM, PGD, Boundary, Suite, ThreatModel
from robust_jax.attacks.views import Average
from robust_jax.evaluation import AttackRun, Evaluation, Judge, Model, harness, paired
from robust_jax.evaluation.protocol import Adversary
from robust_jax.runtime import sharding

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), np.uint8)
BRIGHTNESS = IMAGES.mean(axis=(1, 2, 3)) / 255
LABELS = (BRIGHTNESS > 0.5).astype(np.uint8)
EPS = float(np.sort(np.abs(BRIGHTNESS - 0.5))[5:7].mean())
"""Half of the images lie nearer to the boundary."""
WANTED = Evaluation(
    {"fgsm": AttackRun(FGSM(ThreatModel("linf", EPS)))}, batch_size=12, sanity=False
)


def logits(weights, images):
    brightness = jnp.mean(images, axis=(1, 2, 3)) - 0.5
    return jnp.stack([-brightness, brightness], axis=1) * weights["scale"]


def model(scale=1.0, **fields):
    return Model.of(logits, {"scale": jnp.float32(scale)}, num_classes=2, **fields)


def judged(model, given=(IMAGES, LABELS), wanted=WANTED, **fields):
    return evaluation.run(model, given, wanted, mesh=sharding.make_mesh(1), **fields)


def captured(scale):
    weights = {"scale": jnp.float32(scale)}
    return Model.of(lambda images: logits(weights, images), num_classes=2)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("made", [model(), captured(1.0)], ids=["given", "captured"])
@pytest.mark.parametrize("images", [IMAGES, IMAGES / 255], ids=["uint8", "fractions"])
def test_a_function_is_judged_as_a_checkpoint_is(made, images):
    result = judged(made, (images, LABELS))
    assert result.summary["clean_accuracy"] == 1.0
    assert result.summary["robust_accuracy"] == {"fgsm": 0.5}
    stands = [record.headline().correct for record in result.records["fgsm"].values()]
    assert stands == (np.abs(BRIGHTNESS - 0.5) > EPS).tolist()


def test_what_lies_between_levels_is_kept():
    """An image of fractions is no image of bytes: rounded, this one would be of the other class."""
    images = np.full((1, 4, 4, 1), 0.5 + 1e-4, np.float32)
    result = judged(model(), (images, [1]), Evaluation(batch_size=1, sanity=False))
    assert result.summary["clean_accuracy"] == 1.0


def test_table_and_page(tmp_path):
    result = judged(model(name="brightness"))
    assert "brightness, step 0, test split" in result.table()
    assert "50.00 %" in result.table(width=200)
    result.report(tmp_path / "page.html")
    assert "brightness" in (tmp_path / "page.html").read_text()
    assert "Of 12 images, all are classified right, and 6 still are under" in result.words
    assert f'<p class="words">{result.words}</p>' in (tmp_path / "page.html").read_text()
    assert result.words in result.table(width=200)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_random_function_is_judged_by_draws_of_its_rows():
    def noisy(weights, images, *, key):
        return logits(weights, images + 0.1 * jax.random.normal(key, images.shape))

    made = Model.of(noisy, {"scale": jnp.float32(9)}, num_classes=2, stochastic=True)
    wanted = Evaluation({}, {"honest": Judge(num_draws=8)}, batch_size=12, sanity=False)
    found = judged(made, wanted=wanted).summary["judges"]["honest"]
    assert found["single_draw"]["clean"] < 1.0
    with pytest.raises(ValueError, match="stochastic=True"):
        judged(Model.of(noisy, {"scale": jnp.float32(9)}, num_classes=2), wanted=wanted)


@pytest.mark.parametrize("make", [model, captured])
def test_records_are_gone_on_with_by_what_answers_the_same(make, tmp_path):
    """Nothing else tells whether a function is the same: not its program, nor what it captured."""
    first = judged(make(1.0), out=tmp_path)
    records = (tmp_path / "records" / "fgsm.jsonl").read_text()
    again = judged(make(1.0), out=tmp_path)
    assert again.summary["robust_accuracy"] == first.summary["robust_accuracy"]
    assert (tmp_path / "records" / "fgsm.jsonl").read_text() == records
    for other in (make(1.01), make(-1.0)):
        for wanted in (WANTED, Evaluation(batch_size=12, sanity=False)):
            with pytest.raises(ValueError, match=r"weights|answers"):
                judged(other, wanted=wanted, out=tmp_path)
    assert (tmp_path / "records" / "fgsm.jsonl").read_text() == records


@pytest.mark.parametrize(
    "fields",
    [
        {"vote": "borda"},
        {"members": lambda weights, images: jnp.stack([logits(weights, images)] * 2)},
    ],
)
def test_another_way_to_decide_is_another_function(fields, tmp_path):
    judged(model(), out=tmp_path)
    with pytest.raises(ValueError, match="answers"):
        judged(model(**fields), out=tmp_path)


@pytest.mark.slow
def test_a_function_is_what_it_is_at_each_evaluation():
    """Judge and probe of one model whose captured arrays change in between."""
    weights = {"scale": jnp.float32(1)}
    made = Model.of(lambda images: logits(weights, images), num_classes=2)
    wanted = Evaluation(batch_size=12)
    said = []
    for scale, accuracy in ((1.0, 1.0), (-2.0, 0.0)):
        weights["scale"] = jnp.float32(scale)
        result = judged(made, wanted=wanted)
        assert result.summary["clean_accuracy"] == accuracy
        said += [one.text for one in result.findings if one.check.endswith("gives logits")]
    assert said[0] != said[1]  # the range of the values


def test_keys_among_the_arrays_of_a_function():
    """As the state of an nnx module with dropout has them."""
    arrays = {"scale": jnp.float32(1), "key": jax.random.key(3)}
    made = Model.of(logits, arrays, num_classes=2)
    assert judged(made).summary["robust_accuracy"] == {"fgsm": 0.5}
    other = Model.of(logits, {**arrays, "key": jax.random.key(4)}, num_classes=2)
    split = data.from_arrays(IMAGES, LABELS, num_classes=2, name="test")
    assert other.described(split)["weights"] != made.described(split)["weights"]


def test_the_data_is_of_the_split_that_is_named():
    split = data.from_arrays(IMAGES, LABELS, num_classes=2, name="validation")
    with pytest.raises(ValueError, match="Expected split='test' of the evaluation"):
        judged(model(), split)


def test_a_function_on_several_devices():
    mesh = sharding.make_mesh(4)
    arrays = jax.device_put({"scale": jnp.float32(1)}, jax.devices()[2])
    made = Model.of(logits, arrays, num_classes=2)
    found = evaluation.run(made, (IMAGES, LABELS), WANTED, mesh=mesh)
    assert found.summary["robust_accuracy"] == {"fgsm": 0.5}


def test_attacks_are_transferred_from_another_function():
    """From one that sees the opposite: every image moves away from the boundary."""
    opposite = Model.of(lambda images: logits({"scale": -1.0}, images), num_classes=2)
    attack = AttackRun(PGD(ThreatModel("linf", EPS), num_steps=2), source="opposite")
    wanted = Evaluation({"pgd": attack}, batch_size=12, sanity=False)
    found = judged(model(), wanted=wanted, sources={"opposite": opposite}).summary
    assert found["robust_accuracy"] == {"pgd": 1.0}


def of_scale(scale):
    return Model.of(lambda images: logits({"scale": scale}, images), num_classes=2)


SEVERAL = {"opposite": of_scale(-1.0), "sure": of_scale(3.0), "weak": of_scale(0.1)}


@pytest.mark.slow
def test_attacks_are_transferred_from_several_functions_at_once():
    """The mean of a source that sees the opposite and of a surer one sees what the model does."""
    attack = FGSM(ThreatModel("linf", EPS))
    runs = {
        average: AttackRun(attack, source=("opposite", "sure"), average=average)
        for average in get_args(Average)
    }
    runs["outvoted"] = AttackRun(attack, source=("opposite", "weak"))
    wanted = Evaluation(runs, batch_size=12, sanity=False, measures={})
    found = judged(model(), wanted=wanted, sources=SEVERAL).summary["robust_accuracy"]
    assert found == {"probabilities": 0.5, "logits": 0.5, "gradients": 0.5, "outvoted": 1.0}
    assert wanted.sources == ["opposite", "sure", "weak"]
    assert runs["outvoted"].described.endswith("on deployed, of opposite + weak, mean logits")
    for run in runs.values():
        assert serialization.from_json(AttackRun, serialization.to_json(run)) == run


@pytest.mark.slow
def test_a_suite_is_given_images_to_begin_at():
    """Half of the images are found a way to the other half; noise is of no class."""
    images = np.concatenate([np.full((4, 4, 4, 1), 0.85), np.ones((4, 4, 4, 1))])
    labels = np.repeat([0, 1], 4)

    def bright(images):
        above = jnp.mean(images, axis=(1, 2, 3)) - 0.9
        return jnp.stack([-above, above], axis=1)

    threat = ThreatModel("l2", 0.5)
    suite = Suite(threat, attacks=(Boundary(num_steps=1),), batch_size=4)
    wanted = Evaluation({"suite": AttackRun(suite)}, batch_size=8, sanity=False, measures={})
    found = judged(Model.of(bright, num_classes=2), (images, labels), wanted)
    assert all(record.started for record in found.records["suite"].values())
    assert found.summary["robust_accuracy"] == {"suite": 0.0}


def three(images):
    return jnp.zeros((len(images), 3))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Model.of(three, num_classes=3), "num_classes=2 to be that of source 'other', 3"),
        (Model.of(three, num_classes=2), r"Expected views of one number of classes, found \[2, 3"),
    ],
)
def test_sources_of_another_number_of_classes_are_one_line(other, message):
    run = AttackRun(FGSM(ThreatModel("linf", EPS)), source=("opposite", "other"))
    sources = {"opposite": SEVERAL["opposite"], "other": other}
    with pytest.raises(ValueError, match=message) as error:
        judged(model(), wanted=Evaluation({"fgsm": run}, batch_size=12), sources=sources)
    assert "\n" not in str(error.value)


def test_sources_that_make_no_sense_are_refused():
    attack = FGSM(ThreatModel("linf", EPS))
    for names in ((), ("a", "b", "a")):
        with pytest.raises(ValueError, match="to name checkpoints, each once"):
            AttackRun(attack, source=names)
    for source in (None, "a", ("a",)):
        with pytest.raises(ValueError, match=r"Expected average='gradients' of source=.*several"):
            AttackRun(attack, source=source, average="gradients")
    adversary = Adversary(labels="predicted")
    Evaluation({"sent": AttackRun(attack, source=("a",))}, adversary=adversary)
    with pytest.raises(ValueError, match="Expected labels='predicted' to be 'true': 'sent' is"):
        Evaluation({"sent": AttackRun(attack, source=("a", "b"))}, adversary=adversary)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((IMAGES, LABELS + 2), "labels"),
        ((IMAGES, LABELS[:3]), "Expected 12 images to be 3"),
        ((IMAGES[:0], LABELS[:0]), "at least one"),
        ((IMAGES.astype(np.float32), LABELS), r"in \[0, 1\]"),
        ((IMAGES[..., 0], LABELS), r"to be \[b h w k\]"),
    ],
)
def test_arrays_that_are_no_data_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        judged(model(), given)


def test_scores_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"one array \[b 3\] of scores, found \(1, 2\)"):
        judged(model()._replace(num_classes=3))


@pytest.mark.slow
def test_two_models_are_compared_on_the_same_images():
    """One that is wrong of the darkest image, and not moved by the attack."""
    darkest = int(np.argmin(BRIGHTNESS))

    def other(images):
        stopped = jax.lax.stop_gradient(logits({"scale": 1.0}, images))
        wrong = images.mean(axis=(1, 2, 3)) < BRIGHTNESS[darkest] + 1e-4
        return jnp.where(wrong[:, None], -stopped, stopped)

    first, second = judged(model()), judged(Model.of(other, num_classes=2))
    clean, fgsm = first.compare(second)
    assert clean == ("clean", 12, 11, 1, 0, 1.0)
    assert (fgsm.attack, fgsm.both, fgsm.only_first, fgsm.only_second) == ("fgsm", 5, 1, 6)
    assert fgsm.neither == 0
    assert fgsm.p_value == pytest.approx(2 * (1 + 7) * 0.5**7)
    back = second.compare(first)[1]
    assert (back.only_first, back.p_value) == (6, fgsm.p_value)
    wider = Evaluation(
        {"fgsm": AttackRun(FGSM(ThreatModel("linf", 2 * EPS)))}, batch_size=12, sanity=False
    )
    assert [pair.attack for pair in first.compare(judged(model(), wanted=wider))] == ["clean"]
    for others in (IMAGES[:6], 255 - IMAGES):  # fewer, and others of the same labels
        other = judged(model(), (others, LABELS[: len(others)]))
        with pytest.raises(ValueError, match="same images"):
            first.compare(other)
    cut = first.records | {"fgsm": {0: first.records["fgsm"][0]}}
    with pytest.raises(ValueError, match="all images under 'fgsm'"):
        paired.compare(cut, first.records, judges=("accuracy", "accuracy"))


def test_bytes_and_fractions_are_the_same_images(tmp_path):
    """Also to what tells one function from another, which sees pixels in [0, 1] alone."""
    seen = []

    def watched(images):
        jax.debug.callback(
            lambda least, most: seen.append((least, most)), images.min(), images.max()
        )
        return logits({"scale": 1.0}, images)

    made = Model.of(watched, num_classes=2)
    splits = [data.from_arrays(images, LABELS, num_classes=2, name="test")
              for images in (IMAGES, (IMAGES / 255).astype(np.float32))]  # fmt: skip
    assert made.described(splits[0]) == made.described(splits[1])
    jax.effects_barrier()
    assert seen
    assert all(0 <= least <= most <= 1 for least, most in seen)


def test_a_notebook_shows_the_table():
    page = judged(model(name="a & b"))._repr_html_()
    assert page.startswith("<pre")
    assert "a &amp; b, step 0" in page
    assert "50.00 %" in page
    assert "Sanity checks:" in page


@pytest.mark.parametrize("wrong", [False, True])
def test_records_are_read_as_they_were_made(tmp_path, wrong):
    """Those of attacks that skip images, and of such as had nothing left to attack."""
    radii = AttackRun(FGSM(ThreatModel("linf", EPS))).over_radii("fgsm", eps=[EPS, 0.9, 0.95])
    wanted = Evaluation(radii, batch_size=12, sanity=False)
    labels = 1 - LABELS if wrong else LABELS
    result = judged(model(), (IMAGES, labels), wanted, out=tmp_path)
    assert not (tmp_path / "records" / "fgsm eps 0.95.jsonl").exists()
    assert harness.read_evaluated(tmp_path, wanted) == result.records
    if not wrong:
        file = next((tmp_path / "records").glob("fgsm*.jsonl"))
        first, *_ = file.read_text().splitlines(keepends=True)
        for left, missing in ((first, 11), ("", 12)):
            file.write_text(left)
            with pytest.raises(ValueError, match=f"no record of {missing} of 12 images"):
                harness.read_evaluated(tmp_path, wanted)
