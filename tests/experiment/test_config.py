"""Configuration files: where a name finds one, and what a file may import."""

import dataclasses
import sys

import pytest

from robust_jax.data import Augmentation
from robust_jax.experiment import config
from robust_jax.methods import TRADES
from robust_jax.training import AdversarialTraining

QUICKSTART = """
from robust_jax.experiment import config

VARIANTS = ("default", "v0.2")


def get_config(variant="default"):
    return config.load("quickstart")
"""


@pytest.mark.parametrize(
    ("spec", "variant"),
    [
        ("configs/kap_cifar10.py", "default"),
        ("configs/kap_cifar10.py:sigma0.2", "sigma0.2"),
        ("kap_cifar10", "default"),
        ("kap_cifar10:sigma0.2", "sigma0.2"),
        ("configs/eval/kap.py:table1", "table1"),
        ("eval/kap:table1", "table1"),
    ],
)
def test_the_library_s_files_are_found_everywhere(tmp_path, monkeypatch, spec, variant):
    monkeypatch.chdir(tmp_path)
    module, found = config.load_module(spec)
    assert found == variant
    assert module.__name__.removeprefix("configs.") in ("kap_cifar10", "eval.kap")


def test_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    mine = tmp_path / "configs" / "kap_cifar10.py"
    mine.write_text(QUICKSTART)
    for spec in ("configs/kap_cifar10", f"{mine}:v0.2"):
        assert config.load(spec).name == "quickstart"
    assert config.load("kap_cifar10").name == "kap_cifar10"
    with pytest.raises(ValueError, match=r"Expected config='.*/kap_cifar100.py' to be a file"):
        config.load(str(tmp_path / "kap_cifar100"))


def test_a_file_is_run_anew_and_imports_its_neighbours_in_a_package(tmp_path):
    """Of two packages with one name each file has its own neighbours."""
    for number in (1, 2):
        folder = tmp_path / f"v{number}.0" / "configs"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "shared.py").write_text(f"number = {number}")
        file = folder / "mine.py"
        file.write_text(QUICKSTART + "\nfrom .shared import number")
        found, _ = config.load_module(str(file))
        assert found.number == number
        file.write_text(QUICKSTART + "\nnumber = 5")
        found, _ = config.load_module(str(file))
        assert found.number == 5
    assert str(tmp_path) not in "".join(sys.path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from .shared import number", "mine.py:1 to run: ImportError: .*no known parent package"),
        ("import shared", "mine.py:1 to run: ModuleNotFoundError: No module named 'shared'"),
        ("get_config = None", r"Expected .*mine.py to define VARIANTS\."),
        ("VARIANTS = ()", r"Expected .*mine.py to define get_config\."),
    ],
)
def test_a_file_outside_a_package_stands_alone(tmp_path, text, message):
    (tmp_path / "shared.py").write_text("number = 1")
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        config.load(str(file))


def test_a_ball_around_a_ball_is_refused():
    """What attacks in its loss would attack images of the step's attack; noise leaves the box."""
    base = config.load("quickstart")
    adversarial = dataclasses.replace(base.training, adversarial=AdversarialTraining())
    with pytest.raises(ValueError, match="Divergence of the method moves images itself"):
        config.Config("t", base.data, TRADES(), training=adversarial)
    augmented = dataclasses.replace(base.data, augmentation=Augmentation(noise=0.1))
    with pytest.raises(ValueError, match=r"augmentation\.noise=0\.1 to be 0"):
        config.Config("t", augmented, base.method, training=adversarial)
    config.Config("t", base.data, TRADES())
