"""Configurations survive JSON; every mistake is one line that names the field."""

import dataclasses
import gc
import json
import sys
import types

import pytest

from robust_jax import attacks, methods, models, serialization
from robust_jax.attacks import PGD, ThreatModel
from robust_jax.data import DataConfig, Digits
from robust_jax.evaluation.protocol import AttackRun, Evaluation
from robust_jax.experiment import config
from robust_jax.experiment.config import Config
from robust_jax.methods import KAP, KernelPool, Standard
from robust_jax.training.optimizers import MultiStep, OptimizerConfig

CONFIG = Config(
    name="test",
    data=DataConfig(Digits(), validation_size=0.1),
    method=KAP(pool=KernelPool(grids=((8, 8), (16, 16)))),
    optimizer=OptimizerConfig(schedule=MultiStep(epochs=(1.0, 2.5))),
    evaluation=Evaluation(attacks={"pgd": AttackRun(PGD(ThreatModel("l2", 1.0), num_steps=3))}),
)


def test_round_trip_is_exact():
    written = json.dumps(serialization.to_json(CONFIG))
    assert serialization.from_json(Config, json.loads(written)) == CONFIG


def edited(path, value):
    data = json.loads(json.dumps(serialization.to_json(CONFIG)))
    *parents, last = path.split(".")
    section = data
    for name in parents:
        section = section[name]
    section[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("method.sigm", 0.1, r"Expected config.method.sigm to be a field of KAP \(did you mean"),
        (
            "training.adversarial",
            {"type": "AdversarialTraining", "attack": {"type": "MIM", "num_step": 3}},
            "Expected config.training.adversarial.attack.num_step to be a field of MIM",
        ),
        ("method.sigma", "0.1", "Expected config.method.sigma='0.1' to be of type float"),
        ("method.sigma", True, "Expected config.method.sigma=True to be of type float"),
        ("method.sigma", -1.0, "Expected sigma=-1.0 >= 0"),
        ("method.order", "pool", r"Expected config.method.order='pool' in \['conv_pool'"),
        ("method.type", "KAPP", "Expected config.method of type 'KAPP' to be one of"),
        ("method.pool", 3, "Expected config.method.pool=3 to be a KernelPool"),
        ("seed", 1.5, "Expected config.seed=1.5 to be of type int"),
        ("method.pool.grids", [[8, 8, 8]], "to have 2 entries"),
        ("optimizer.schedule.epochs", 3, "Expected config.optimizer.schedule.epochs=3 to be a tup"),
        ("evaluation.attacks", [], r"Expected config.evaluation.attacks=\[\] to be a dict"),
        ("data", None, "Expected config.data=None to be a DataConfig"),
    ],
)
def test_mistakes_are_one_line(path, value, message):
    with pytest.raises(ValueError, match=message) as error:
        serialization.from_json(Config, edited(path, value))
    assert "\n" not in str(error.value)


def test_missing_field():
    data = serialization.to_json(CONFIG)
    del data["data"]
    with pytest.raises(ValueError, match="to have the field"):
        serialization.from_json(Config, data)


def test_check_finds_what_python_did_not():
    bad = KAP()
    object.__setattr__(bad, "sigma", "a")
    with pytest.raises(ValueError, match=r"Expected config.sigma='a' to be of type float"):
        serialization.check(bad)


def test_differences_name_every_field():
    other = dataclasses.replace(CONFIG, seed=1, method=Standard())
    lines = serialization.differences(
        serialization.to_json(CONFIG), serialization.to_json(other), name=""
    )
    assert ".seed: 0 != 1" in lines
    assert ".method.type: 'KAP' != 'Standard'" in lines
    assert not serialization.differences(*[serialization.to_json(CONFIG)] * 2)


def test_load_names_the_variants(tmp_path, repository):
    assert config.load(str(repository / "configs" / "quickstart.py")).name == "quickstart"
    with pytest.raises(ValueError, match="Expected variant='fast' of"):
        config.load(str(repository / "configs" / "quickstart.py:fast"))
    with pytest.raises(ValueError, match=r"to be a file."):
        config.load(str(tmp_path / "absent.py"))
    with pytest.raises(ValueError, match="to give Evaluation"):
        config.load_evaluation(str(repository / "configs" / "quickstart.py"))


def test_data_dir_replaces_the_source_s_place():
    with pytest.raises(ValueError, match="Digits lies nowhere"):
        config.with_data_dir(CONFIG.data, "/data")
    assert config.with_data_dir(CONFIG.data, None) is CONFIG.data


@pytest.fixture
def define():
    """Defines a dataclass that lies in some module, for the length of a test."""
    gc.freeze()  # who looks for classes that nobody has any more need not look at all there is
    defined = []

    def make(name, base, module):
        own = dataclasses.make_dataclass(name, [("own", int, 1)], bases=(base,), frozen=True)
        own.__module__ = module
        defined.append(own)
        return own

    yield make
    for number, own in enumerate(defined):
        own.__name__ = f"Gone{number}"  # who is called so is met no more


def test_names_that_two_classes_have_are_refused(define):
    # A name is all that is stored: one would be read in the other's place.
    define("Narrow", PGD, "one")
    first = define("Narrow", PGD, "one")  # a cell that is run again defines its class again
    run = AttackRun(first(ThreatModel("linf", 0.1)))
    written = serialization.to_json(run)
    assert type(serialization.from_json(AttackRun, written).attack) is first
    other = AttackRun(define("Narrow", PGD, "another")(ThreatModel("linf", 0.1)))
    for refused in (
        lambda: serialization.to_json(run),
        lambda: serialization.to_json(other),
        lambda: serialization.from_json(AttackRun, written),
    ):
        with pytest.raises(ValueError, match=r"called Narrow: one\.Narrow and anoth"):
            refused()
    assert serialization.to_json(CONFIG)  # nobody else is in the way


def test_the_last_definition_is_read(define):
    """Whichever base it has."""
    base = define("Wide", PGD, "three")
    first, last = define("Again", PGD, "three"), define("Again", base, "three")
    sys.modules["three"] = types.ModuleType("three")
    try:
        for one in (last, first):
            sys.modules["three"].Again = one
            assert serialization.kinds(PGD)["Again"] is one
    finally:
        del sys.modules["three"]


@pytest.mark.parametrize("base", [methods.MethodConfig, attacks.Attack, models.NetworkConfig])
def test_classes_called_as_the_library_s_are_refused(base, define):
    name, library = min(serialization.kinds(base).items())
    own = define(name, library, "mine")
    for cls in (own, library):
        with pytest.raises(ValueError, match=f"one class to be called {name}"):
            serialization.to_json(object.__new__(cls))
