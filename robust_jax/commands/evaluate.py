"""Judges a model: evaluate.py --checkpoint DIR | --model FILE.py:NAME [--config X | --preset X].

Attacks it, judges by its deployed rule, prints a table, and writes records/ (a line per example
and attack), summary.json and report.html. An evaluation that was stopped goes on where it was.
`--list` alone shows the library's evaluations.

    python evaluate.py --checkpoint runs/kap_cifar10 --config configs/eval/kap.py:table1
    python evaluate.py --checkpoint runs/kap_cifar10 --preset honest --eps 8/255
    python evaluate.py --model mine.py:net --preset standard --eps 8/255 --data.source Digits
    python evaluate.py --model mine.py:net --data.source Digits
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from jax.sharding import Mesh

from robust_jax import evaluation, experiment, serialization
from robust_jax.attacks import ThreatModel
from robust_jax.attacks.threat import Norm
from robust_jax.data import Data, DataConfig, open_data
from robust_jax.evaluation import Evaluation, Model
from robust_jax.evaluation.presets import Preset
from robust_jax.experiment import catalogue, checkpoints, config, models
from robust_jax.runtime import command_line, compilation_cache, python_file, sharding
from robust_jax.runtime.compilation import Precision
from robust_jax.runtime.sharding import RuntimeConfig
from robust_jax.types import Budget, SplitName


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of evaluate.py.

    Attributes:
        checkpoint: work directory of a run, or of an imported checkpoint; or a checkpoint's file
            (checkpoints.save_file).
        model: what is judged in the place of a checkpoint: a function of images in [0, 1] with
            NHWC axes, a module of flax nnx, Equinox or PyTorch, or a robust_jax.evaluation.Model
            that a Python file defines, FILE.py:NAME.
        config: evaluation to run, a file of configs/eval; None for the one that the checkpoint's
            own configuration names.
        preset: evaluation in the place of a file's: "quick" for a first look, "standard" for
            AutoAttack and long PGD, "honest" for all that suits what the model says of itself.
            A model of a file has "quick" where neither is said.
        norm: of the preset's ball; None for linf.
        eps: radius of the preset's ball, in pixel units; None for 8/255, in linf alone.
        method: configuration whose method is used on the checkpoint's weights, file[:variant]:
            other noise switches, another vote (table A6 of the KAP paper); None for the method
            that the checkpoint was trained with.
        step: which checkpoint; None for the best.
        out: where records and summary go; None for CHECKPOINT/evaluations/NAME-STEP, or for
            runs/evaluations/FILE-NAME-EVALUATION of a model of a file; a preset's has its ball.
        data: the dataset; None for that of the checkpoint's training.
        data_dir: where the dataset lies on this machine; None for the place that training used.
        split: another split than the evaluation names.
        num_examples: fewer examples than the evaluation names.
        batch_size: another global batch size than the evaluation names.
        precision: another precision of products of float32, in JAX's names: "default" is the
            device's quickest, "highest" is float32.
        sources: work directories of the checkpoints that attacks are transferred from, by the
            names that the evaluation gives them: --sources surrogate DIR.
        budget: "reduced" for 64 examples and small attacks, stamped as not comparable.
        runtime: devices and progress.
    """

    checkpoint: pathlib.Path | None = None
    model: str | None = None
    config: str | None = None
    preset: Preset | None = None
    norm: Norm | None = None
    eps: float | None = None
    method: str | None = None
    step: int | None = None
    out: pathlib.Path | None = None
    data: DataConfig | None = None
    data_dir: str | None = None
    split: SplitName | None = None
    num_examples: int | None = None
    batch_size: int | None = None
    precision: Precision | None = None
    sources: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    budget: Budget = "full"
    runtime: RuntimeConfig = RuntimeConfig()


def main(arguments: Arguments) -> evaluation.Result:
    """Judges what the arguments name, and returns what `experiment.judge` does."""
    _check(arguments)
    if arguments.model is not None and arguments.config is None and arguments.preset is None:
        arguments = dataclasses.replace(arguments, preset="quick")
    sharding.start_processes(arguments.runtime)
    compilation_cache.use(arguments.runtime.compilation_cache)
    mesh = sharding.make_mesh(arguments.runtime.num_devices)
    subject = _subject(arguments, mesh)
    sources = {
        name: experiment.as_model(checkpoints.load(path, mesh))
        for name, path in arguments.sources.items()
    }
    return experiment.judge(
        subject.model, _wanted(arguments, subject), mesh,
        data=subject.data, out=arguments.out or subject.place, sources=sources,
        progress=arguments.runtime.progress,
    )  # fmt: skip


def _check(arguments: Arguments) -> None:
    """Raises ValueError where the arguments do not go together."""
    models.check_named(arguments.checkpoint, arguments.model)
    if arguments.config is not None and arguments.preset is not None:
        raise ValueError("Expected --config or --preset, not both.")
    if arguments.preset is None and (arguments.model is None or arguments.config is not None):
        for name in ("eps", "norm"):
            if getattr(arguments, name) is not None:
                raise ValueError(
                    f"Expected --{name} beside --preset only: the ball is the preset's."
                )
    if arguments.eps is None and arguments.norm not in (None, "linf"):
        raise ValueError(f"Expected --eps beside --norm {arguments.norm}.")
    if arguments.model is not None:
        for name in ("method", "step"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"Expected --{name} beside --checkpoint only.")


class Subject(NamedTuple):
    """What is judged.

    Attributes:
        model: the model.
        data: on which dataset.
        own: the evaluation that its configuration names; None of a model of a file.
        place: where results go where nothing else is said.
    """

    model: Model
    data: Data
    own: Evaluation | None
    place: pathlib.Path


def _subject(arguments: Arguments, mesh: Mesh) -> Subject:
    """Returns what the arguments name."""
    named = [pathlib.Path(spec).name.replace(".py", "").replace(":", "-")
             for spec in (arguments.config or arguments.preset or "default", arguments.method)
             if spec]  # fmt: skip
    named += [path.name for path in arguments.sources.values()]
    if arguments.preset is not None:
        threat = _threat(arguments)
        named.append(f"{threat.norm}{threat.eps:g}")
    named += ["reduced"] if arguments.budget == "reduced" else []
    if arguments.checkpoint is None:
        assert arguments.model is not None
        data = open_data(config.with_data_dir(arguments.data or DataConfig(), arguments.data_dir))
        model = models.load(arguments.model, num_classes=data.task.num_classes)
        file, _, name = pathlib.Path(arguments.model).name.partition(":")
        place = "-".join([file.removesuffix(".py"), name, *named])
        return Subject(model, data, None, pathlib.Path("runs") / "evaluations" / place)
    method = None if arguments.method is None else config.load(arguments.method)
    checkpoint = checkpoints.load(arguments.checkpoint, mesh, step=arguments.step)
    own = checkpoint.config
    data = open_data(config.with_data_dir(arguments.data or own.data, arguments.data_dir))
    if method is not None:
        checkpoint = checkpoints.with_method(checkpoint, method)
    place = arguments.checkpoint
    if place.is_file():  # whose evaluations have a folder of its name
        place = place.with_suffix("")
    place = place / "evaluations" / "-".join([*named, str(checkpoint.step)])
    return Subject(experiment.as_model(checkpoint), data, own.evaluation, place)


def _threat(arguments: Arguments) -> ThreatModel:
    """Returns the ball of a preset."""
    eps = 8 / 255 if arguments.eps is None else arguments.eps
    return ThreatModel(arguments.norm or "linf", eps)


def _wanted(arguments: Arguments, subject: Subject) -> Evaluation:
    """Returns the evaluation that the arguments ask for."""
    if arguments.preset is not None:
        threat = _threat(arguments)
        split = subject.data.split(arguments.split or "test")
        wanted = evaluation.preset(arguments.preset, threat, subject.model, split)
    elif arguments.config is not None:
        wanted = config.load_evaluation(arguments.config)
    else:
        assert subject.own is not None
        wanted = subject.own
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    chosen = {name: given[name] for name in ("split", "num_examples") if name in given}
    named = {name: given[name] for name in ("batch_size", "precision") if name in given}
    named["selection"] = dataclasses.replace(wanted.selection, **chosen)
    wanted = serialization.check(dataclasses.replace(wanted, **named))
    return wanted.reduced() if arguments.budget == "reduced" else wanted


def parsed(words: Sequence[str]) -> Arguments:
    """Returns the arguments that a command line gives.

    Raises:
        ValueError: see `command_line.parse`.
    """
    data, elsewhere = DataConfig(), any(word.startswith("--data.") for word in words)
    if elsewhere:
        given = dict(itertools.pairwise(words))
        given |= dict(word.split("=", 1) for word in words if word.startswith("--checkpoint="))
        if "--checkpoint" in given:
            data = checkpoints.config_of(pathlib.Path(given["--checkpoint"]).expanduser()).data
    found = command_line.parse(
        Arguments, args=words, default=Arguments(data=data), parts="data",
        description=python_file.described(__doc__),
    )  # fmt: skip
    return found if elsewhere else dataclasses.replace(found, data=None)


def run() -> None:
    """Does what the command line says."""
    with command_line.one_line_errors():
        if sys.argv[1:] == ["--list"]:
            catalogue.show(evaluations=True)
            return
        main(parsed(python_file.defined(sys.argv[1:])))


if __name__ == "__main__":
    run()
