"""A method of one's own file, trained, and judged by another process."""

import json
import subprocess
import sys

import pytest

from robust_jax.runtime import python_file

MINE = """
import dataclasses
from robust_jax.attacks import FGSM, ThreatModel
from robust_jax.data import DataConfig, Digits
from robust_jax.evaluation import AttackRun, Evaluation
from robust_jax.experiment.config import Config
from robust_jax.methods import Standard
from robust_jax.models import CNNConfig
from robust_jax.training import Phase, TrainingConfig

@dataclasses.dataclass(frozen=True)
class Mine(Standard):
    pass

VARIANTS = ("default",)

def get_config(variant):
    attacks = {"fgsm": AttackRun(FGSM(ThreatModel("linf", 0.1)))}
    return Config(
        "mine", DataConfig(Digits()), Mine(CNNConfig(widths=(4,), strides=(2,))),
        training=TrainingConfig((Phase(epochs=1.0, batch_size=128),)),
        evaluation=Evaluation(attacks, sanity=False, measures={}),
    )
"""


@pytest.mark.slow
def test_its_file_is_named_beside_the_checkpoint(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)

    def run(command, *words):
        words = [sys.executable, "-m", f"robust_jax.{command}", *words]
        return subprocess.run(words, cwd=tmp_path, text=True, capture_output=True, check=False)

    trained = run("commands.train", "mine.py", "--workdir", "run", "--budget", "reduced")
    assert trained.returncode == 0, trained.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["budget"], summary["num_examples"]) == ("reduced", 64)
    alone = run("commands.evaluate", "--checkpoint", "run")
    assert alone.returncode == 2
    assert "known once its file is run: --define FILE" in alone.stderr + alone.stdout
    # Of a run whose own evaluation was the reduced one all images are asked for.
    flags = ("--define", "mine.py", "--out", "judged", "--data.validation-size", "5")
    judged = run("commands.evaluate", "--checkpoint", "run", *flags)
    assert judged.returncode == 0, judged.stderr
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text())
    assert (summary["budget"], summary["num_examples"]) == ("full", 355)
    # Whatever else reads a checkpoint comes as far as its own mistakes.
    for command, message in (
        ("commands.corruptions", "to hold"),
        ("interop.export", "plain_cnn' to be"),
    ):
        others = {"commands.corruptions": ["--checkpoint", "run", "--data", "."]}
        words = others.get(command, ["run", "--architecture", "plain_cnn", "--out", "x.pt"])
        failed = run(command, *words, "--define", "mine.py")
        assert failed.returncode == 2
        assert message in failed.stderr + failed.stdout


@pytest.mark.parametrize(
    "words",
    [["--define", "{0}", "--out", "x", "--define", "{1}"], ["--define={0}", "--define={1}"]],
)
def test_files_are_run_before_the_checkpoint_is_read(tmp_path, words):
    files = [tmp_path / f"{name}.py" for name in "ab"]
    for file in files:
        file.write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n")
    given = [word.format(*files) for word in words]
    left = python_file.defined(["run", *given, "--step", "3"])
    assert left == ["run", *(["--out", "x"] if len(words) > 2 else []), "--step", "3"]
    assert all(file.with_suffix(".ran").exists() for file in files)


@pytest.mark.parametrize("words", [["--define"], ["--define", "--out", "x"], ["--define=no.py"]])
def test_a_file_is_named_and_there(words):
    with pytest.raises(ValueError, match=r"Expected (a file behind --define|'no.py' to be a file)"):
        python_file.defined(words)
