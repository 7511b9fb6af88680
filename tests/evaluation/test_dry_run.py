"""What cannot work is refused before the first attack: steps, certificates, measures, rows."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from robust_jax import evaluation, experiment, serialization
from robust_jax.attacks import APGD, APGDT, FGSM, AutoAttack
from robust_jax.certify import Margins, Smoothing
from robust_jax.data import open_data
from robust_jax.evaluation import dry_run, measurement
from robust_jax.evaluation.measures import Embedding, Found, Measure
from robust_jax.evaluation.protocol import (
    AttackRun,
    Evaluation,
    Judge,
    Printed,
    Selection,
    side_by_side,
)
from robust_jax.experiment import checkpoints
from robust_jax.runtime import sharding
from tests import small


@dataclasses.dataclass(frozen=True)
class Broken(Measure):
    """A measure that fails on every model, of which nothing is missing."""

    def missing(self, subject):
        """Returns None."""
        del subject

    def __call__(self, subject):
        """Fails after its first question."""
        scores = subject.ask("deployed", subject.images, key=subject.key)
        return Found("", {"share": float(jnp.mean(scores + jnp.zeros((3, 3))))})


@dataclasses.dataclass(frozen=True)
class Attacked(Broken):
    """A measure that attacks."""

    attack: AutoAttack | None = None

    def __call__(self, subject):
        """Returns the mean of attacked images."""
        images = subject.attacked(self.attack, "deployed")
        return Found("", {"mean": float(jnp.mean(images))})


GOOD = {"fgsm": AttackRun(FGSM(small.THREAT))}
APGDS = (APGD(small.THREAT, num_steps=2), APGDT(small.THREAT, num_steps=2, num_targets=11))
SUITE = AutoAttack(small.THREAT, version="custom", attacks=APGDS)
CASES = {
    "attack": (
        {"attacks": {**GOOD, "late": AttackRun(FGSM(small.THREAT), view="member_7")}},
        "attack 'late' to run on this model: Expected view='member_7' below the 1 members",
    ),
    "suite": (
        {"attacks": {**GOOD, "late": AttackRun(SUITE)}},
        "attack 'late' to run on this model: Expected num_classes=10 to suffice for APGDT",
    ),
    "measure": ({"measures": {"broken": Broken()}}, "measures='broken' to run on this model: "),
    "name": ({"attacks": {".03": GOOD["fgsm"]}}, "name='.03' to name a file"),
    "names": ({"attacks": {"Clean": GOOD["fgsm"]}}, "'clean' and 'Clean' to differ in more than"),
    "certificates": (
        {"certificates": {"a": Margins(0.1), "A": Margins(0.2)}},
        "'a' and 'A' to differ in more",
    ),
}


@pytest.fixture(scope="module")
def model():
    """A checkpoint as it is restored, and its data."""
    cfg = small.config()
    data = open_data(cfg.data)
    method = cfg.method.make(data.task)
    everywhere = sharding.replicated(sharding.make_mesh(1))
    variables = jax.jit(lambda key: method.init(key=key), out_shardings=everywhere)(
        jax.random.key(0)
    )
    return checkpoints.Checkpoint(cfg, data.task, (), 0, {}, variables), data


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_attacked_before(case, model, tmp_path):
    checkpoint, data = model
    fields, message = CASES[case]
    wanted = dataclasses.replace(checkpoint.config.evaluation, **{"attacks": GOOD, **fields})
    with pytest.raises(ValueError, match="Expected ") as error:
        experiment.judge(
            experiment.as_model(checkpoint),
            wanted,
            sharding.make_mesh(1),
            data=data,
            out=tmp_path / "out",
        )
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    # What is stored is read, whatever was refused since.
    assert serialization.from_json(Evaluation, serialization.to_json(wanted)) == wanted
    assert not (tmp_path / "out").exists()


def checked(model, method, **fields):
    checkpoint, _ = model
    wanted = dataclasses.replace(checkpoint.config.evaluation, **{"attacks": GOOD, **fields})
    evaluator = evaluation.make_evaluator(method, wanted, sharding.make_mesh(1))
    dry_run.check(evaluator, {None: (method, checkpoint.variables)}, checkpoint.task)
    return evaluator


def test_certificates_of_what_they_cannot_bound(model):
    checkpoint, _ = model
    method = checkpoint.config.method.make(checkpoint.task)
    certificates = {"margins": Margins(0.1), "smoothing": Smoothing(0.5)}
    checked(model, method, certificates=certificates)

    def members(variables, images, *, key=None):
        return jnp.sin(method.views["members"](variables, images, key=key))

    def predict(variables, images, *, key=None):
        return method.predict(variables, images, key=key)[:, 0]

    waves = method._replace(views={**method.views, "members": members})
    flat = method._replace(predict=predict)
    with pytest.raises(ValueError, match=r"certificate 'margins' to run on this model: Expected"):
        checked(model, waves, certificates={"margins": Margins(0.1)})
    with pytest.raises(ValueError, match=r"to run on this model"):
        checked(model, flat, certificates={"smoothing": Smoothing(0.5)})


@pytest.mark.parametrize("num_processes", [1, 2])
def test_suites_are_traced_on_every_host(model, num_processes, monkeypatch):
    """What runs on the host gathers the batch there first; not of a trace."""
    checkpoint, _ = model
    method = checkpoint.config.method.make(checkpoint.task)
    suite = AutoAttack(small.THREAT, version="custom", attacks=APGDS)
    monkeypatch.setattr(jax, "process_count", lambda: num_processes)
    with pytest.raises(ValueError, match=r"attack 'suite' to run on this model: .* to suffice"):
        checked(model, method, attacks={"suite": AttackRun(suite)})


def test_suites_and_their_measures_are_traced_too(model):
    checkpoint, data = model
    method = checkpoint.config.method.make(checkpoint.task)
    suite = AutoAttack(small.THREAT, version="custom", attacks=APGDS[:1])
    checked(model, method, attacks={"suite": AttackRun(suite)})
    measures = {"embedding": Embedding(), "kept": Attacked(attack=suite)}
    asked = measurement.Questions(measures, named=True, batch_size=8, seed=0)
    measurement.check(asked, experiment.as_model(checkpoint), data.test, num_chosen=64)
    broken = AutoAttack(small.THREAT, version="custom", attacks=APGDS)
    asked = asked._replace(measures={"kept": Attacked(attack=broken)})
    with pytest.raises(ValueError, match=r"measures='kept' to run on this model: .* to suffice"):
        measurement.check(asked, experiment.as_model(checkpoint), data.test, num_chosen=64)


def test_what_was_traced_is_not_traced_again(model):
    checkpoint, data = model
    method = checkpoint.config.method.make(checkpoint.task)
    traced = []

    def deployed(variables, images, *, key=None):
        traced.append(images.shape)
        return method.views["deployed"](variables, images, key=key)

    counting = method._replace(views={**method.views, "deployed": deployed})
    evaluator = checked(model, counting)
    before = len(traced)
    assert before
    evaluation.evaluate(evaluator, checkpoint.variables, data.test)
    assert len(traced) == before


@pytest.mark.parametrize(
    ("rows", "fields", "found"),
    [
        ({"any": 50.0}, {"of": "given_clean_correct"}, "any"),
        ({"any": 50.0}, {"of": "successes"}, "any"),
        ({"late": 50.0}, {}, "late"),
        ({"both": 50.0}, {}, "both"),
        ({}, {"top5": {"x": {"any": 50.0}}}, "any"),
        ({"late": 50.0, "fgsm": 1.0}, {"judge": "paper"}, "late"),
    ],
)
def test_a_printed_row_has_such_a_number_of_ours(rows, fields, found):
    attacks = {**GOOD, "late": AttackRun(FGSM(small.THREAT), adaptive=True)}
    groups = {"any": ("fgsm",), "both": ("fgsm", "late")}

    def made(rows, **fields):
        printed = Printed("table 1", {"x": rows}, **fields)
        kinds = {"judges": side_by_side(), "worst_of": groups, "printed": printed}
        return Evaluation(attacks=attacks, **kinds)

    with pytest.raises(ValueError, match=rf"printed='table 1', of='\w+', .* found \['{found}'\]"):
        made(rows, **fields)
    fields.pop("top5", None)
    made({"clean": 1.0, "fgsm": 1.0}, top5={"x": {"clean": 1.0, "fgsm": 1.0}}, **fields)
    made(rows, judge="honest") if "of" not in fields else None


@pytest.mark.parametrize("stochastic", [False, True])
def test_steps_with_records_are_traced_where_these_may_be_set_aside(model, tmp_path, stochastic):
    checkpoint, _ = model
    method = checkpoint.config.method.make(checkpoint.task)
    traced = []
    config = Evaluation(attacks={}, measures={}, batch_size=4, sanity=False)
    evaluator = evaluation.make_evaluator(method, config, sharding.make_mesh(1))
    models = {None: (method, checkpoint.variables)}

    def check():
        """Returns how often a step, which is none of before, is traced."""
        traced.clear()
        steps = {"clean": lambda *_: traced.append(1)}
        found = evaluator._replace(steps=steps, stochastic=stochastic)
        dry_run.check(found, models, checkpoint.task, directory=tmp_path)
        return len(traced)

    assert check() == 1  # without records
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "clean.jsonl").write_text("{}\n")
    assert check() == stochastic


@pytest.mark.usefixtures("without_type_checks")
def test_words_that_no_field_knows(model):
    """In a notebook nobody checks them: an unknown rule would judge by another one."""
    method = model[0].config.method.make(model[0].task)
    for fields, word in (
        ({"judges": {"a": Judge(rule="paperr")}}, "paperr"),
        ({"selection": Selection(split="tset")}, "tset"),
        ({"attacks": {"a": AttackRun(FGSM(small.THREAT), draws="fix")}}, "fix"),
    ):
        with pytest.raises(ValueError, match=rf"^Expected evaluation\..*='{word}' in \["):
            checked(model, method, **fields)
