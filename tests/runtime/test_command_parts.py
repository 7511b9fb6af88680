"""Parts of a configuration written on the command line, as a configuration file has them."""

import json
import shlex
import sys

import pytest

from robust_jax import serialization
from robust_jax.attacks import APGD, Square, ThreatModel
from robust_jax.commands import train
from robust_jax.evaluation import AttackRun
from robust_jax.experiment import config
from robust_jax.experiment.config import Config
from robust_jax.methods import (
    PARL,
    Divergence,
    Diversity,
    InputNoise,
    KernelPooling,
    NoiseBeforeConv,
    PairwiseAdversarial,
)
from robust_jax.models import EnsembleConfig, ResNetConfig
from robust_jax.runtime import command_line
from robust_jax.training import AdversarialTraining, Phase
from robust_jax.training.optimizers import Cosine

THREAT = ThreatModel("linf", 8 / 255)


@pytest.fixture
def parsed(repository, monkeypatch):
    """A function of a configuration file and of words: the configuration that they make."""
    monkeypatch.chdir(repository)

    def parse(spec, *words):
        default = train.Arguments(config.load(spec))
        found = command_line.parse(train.Arguments, args=words, default=default, flat="config")
        stored = json.loads(json.dumps(serialization.to_json(found.config)))
        assert serialization.from_json(Config, stored) == found.config
        return found.config

    return parse


def test_a_method_s_parts(parsed):
    """Fields of a part that a flag names are flags as well, wherever its own flag stands."""
    found = parsed(
        "configs/combined_digits.py:kap_parl",
        "--method.network.member.width-multiplier", "1/2",
        "--method.network", "EnsembleConfig(ResNetConfig(depth=20, conv_bias=True), num_members=5)",
        "--method.network.num-members=4",
        "--method.changes", "+NoiseBeforeConv(.3)", "+KernelPooling", "-NoiseBeforeConv",
        "--method.terms", "+Divergence(1, APGD(ThreatModel(linf, 8/255)))", "+Diversity",
        "-PairwiseAdversarial", "--method.pool", "None",
        "--method.terms.0.beta", "3",
    ).method  # fmt: skip
    member = ResNetConfig(depth=20, conv_bias=True, width_multiplier=0.5)
    assert found.network == EnsembleConfig(member, 4)
    assert found.changes == (KernelPooling(),)
    assert found.terms == (Divergence(3.0, APGD(THREAT)), Diversity())
    assert found.pool is None


def test_other_parts(parsed):
    """Whatever is a dataclass: a whole method, attacks, schedules; several words are several."""
    ensemble = "configs/ensemble_digits.py"
    found = parsed(
        ensemble,
        "--training.adversarial", "AdversarialTraining",
        "--training.adversarial.attack", "Square(ThreatModel(linf, 8/255), num_queries=5)",
        "--training.phases", "Phase(1)", "Phase(epochs=2, batch_size=32)",
        "--training.validation-attack=None",
        "--optimizer.schedule", "Cosine(warmup=.5)",
        "--evaluation.attacks.more", "AttackRun(APGD(ThreatModel('linf', 8/255)), eot_samples=2)",
        "--evaluation.attacks.pgd.attack", "APGD(ThreatModel(linf, 8/255), 2)",
    )  # fmt: skip
    assert found.training.adversarial == AdversarialTraining(Square(THREAT, num_queries=5))
    assert found.training.phases == (Phase(1.0), Phase(2.0, batch_size=32))
    assert found.optimizer.schedule == Cosine(warmup=0.5)
    assert found.evaluation.attacks == {
        "pgd": AttackRun(APGD(THREAT, num_restarts=2)),
        "more": AttackRun(APGD(THREAT), eot_samples=2),
    }
    network = "EnsembleConfig(member=CNNConfig((8, 8), (1, 2)))"
    found = parsed(ensemble, "--method", f"PARL({network}, num_layers=2)", "--method.vote", "borda")
    assert isinstance(found.method, PARL)
    assert (found.method.num_layers, found.method.vote) == (2, "borda")
    assert found.method.network.member.widths == (8, 8)
    changes = ["--method.changes", "NoiseBeforeConv", "InputNoise(.2, when=[training])"]
    assert parsed(ensemble, *changes).method.changes == (
        NoiseBeforeConv(), InputNoise(0.2, when=("training",)),
    )  # fmt: skip
    parl = "configs/combined_digits.py:kap_parl"
    assert parsed(parl).method.terms == (PairwiseAdversarial(num_layers=2),)
    assert parsed(parl, "--method.terms").method.terms == ()


NETWORK, CHANGES, TERMS = "--method.network", "--method.changes", "--method.terms"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([NETWORK, "ResnetConfig"], r"network ResnetConfig to be one of .*mean ResNetConfig\?"),
        ([NETWORK, "ResNetConfig(dept=2)"], r"network.dept to be a field .*mean 'depth'\?"),
        ([NETWORK, "ResNetConfig(2"], r"'ResNetConfig\(2' to be as in Python: NAME, or"),
        ([NETWORK], r"--method.network to be given one of \['CNNConfig', 'Ens"),
        ([NETWORK, "EnsembleConfig"], "network to have the field 'member'"),
        ([NETWORK, "None"], "network=None to be a NetworkConfig"),
        ([NETWORK, "CNNConfig((8,), widths=(9,))"], "to have widths once"),
        ([NETWORK, "CNNConfig(**x)"], "to be a field of CNNConfig"),
        ([NETWORK, f"CNNConfig({', '.join('123456789' * 2)})"], "to have at most 12 values"),
        ([NETWORK, "CNNConfig(open('x').read())"], r"read\(\)\" in .* to be a value"),
        ([NETWORK, "CNNConfig(__import__('os'))"], r"__import__\(...\) to be a number, a text"),
        ([CHANGES, "InputNoise(1/0)"], "'1 / 0' in --method.changes to be a value"),
        ([CHANGES, "InputNoise(nan)"], "sigma='nan' to be of type float"),
        ([CHANGES, "InputNoise(True)"], "sigma=True to be of type float"),
        ([CHANGES, "InputNoise", "InputNoise"], "to have InputNoise once"),
        (
            [f"{NETWORK}.member", "ResNetConfig", NETWORK, "ResNetConfig"],
            "network to be given before --method.network.member, which it replaces",
        ),
        ([CHANGES, "-InputNoise"], r"changes -InputNoise to be one of \[\]"),
        ([CHANGES, "5"], "0]=5 to be a LayerChange"),
        ([TERMS, "+Divergence", "+Divergence"], "to have Divergence once"),
        (["--training.adversarial.attack", "PGD"], "adversarial=None to be given before"),
        (["--training.validation-attack", "PGD"], "to have the field 'threat'"),
        (["--optimizer.rates", "linear", "-1"], "Expected rates={'linear': -1.0} >= 0"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(parsed, words, message):
    with pytest.raises(ValueError, match=message) as error:
        parsed("configs/ensemble_digits.py", *words)
    assert "\n" not in str(error.value)


def test_help_lists_what_there_is(parsed, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        parsed("configs/ensemble_digits.py", NETWORK, "ResNetConfig", "--help")
    out = capsys.readouterr().out
    for words in (
        "--method.network CNNConfig | EnsembleConfig | ",
        "--method.changes ActivationNoise | Dropout | ",
        "--training.validation-attack APGD | ",
        "--method.network.stem",
    ):
        assert words in out


def test_seeds_and_names_of_parameters(repository, monkeypatch):
    monkeypatch.chdir(repository)
    default = train.Arguments(config.load("configs/ensemble_digits.py"))
    words = [
        "--optimizer.frozen", "conv1", "layer1_*", "--optimizer.rates", "linear", "1/8",
        "--training.init-from", "a", "b", "--seeds", "0", "1",
    ]  # fmt: skip
    found = command_line.parse(train.Arguments, args=words, default=default, flat="config")
    optimizer = found.config.optimizer
    assert (optimizer.frozen, optimizer.rates) == (("conv1", "layer1_*"), {"linear": 0.125})
    assert (found.config.training.init_from, found.seeds) == (("a", "b"), (0, 1))
    one = command_line.parse(train.Arguments, args=words[6:8], default=default, flat="config")
    assert one.config.training.init_from == "a"


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("file", ["README.md", "docs/how_to/train.md", "configs/README.md"])
def test_commands_of_the_pages_are_understood(repository, monkeypatch, file):
    monkeypatch.chdir(repository)
    text = (repository / file).read_text().replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.strip().startswith("python train.py c")]
    assert len(commands) > 2
    for command in commands:
        _, _, spec, *words = shlex.split(command, comments=True)
        if not {"--help", "--runtime.distributed"} & set(words):
            default = train.Arguments(config.load(spec))
            command_line.parse(train.Arguments, args=words, default=default, flat="config")
