"""The configurations of configs/, by name."""

import functools
import pathlib

import pytest

from robust_jax.evaluation.protocol import Evaluation
from robust_jax.experiment import config
from robust_jax.experiment.config import Config
from robust_jax.types import Task

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

TASKS = {
    "quickstart": Task((8, 8, 1), 10, 1_237),
    "digits": Task((8, 8, 1), 10, 1_237),
    "cifar10": Task((32, 32, 3), 10, 49_000),
    "cifar100": Task((32, 32, 3), 100, 49_000),
    "tiny_imagenet": Task((128, 128, 3), 200, 98_000),
    "imagenet": Task((224, 224, 3), 1000, 1_271_167),
    "mnist": Task((28, 28, 1), 10, 59_000),
    "svhn": Task((32, 32, 3), 10, 72_257),
}


def files(folder: str) -> list[pathlib.Path]:
    """Returns the configuration files of a folder of the repository."""
    return [p for p in sorted((REPOSITORY / folder).glob("*.py")) if p.stem != "__init__"]


def specs(folder: str) -> list[str]:
    """Returns `path.py:variant` of every variant of every file of a folder."""
    found = []
    for file in files(folder):
        module, _ = config.load_module(str(file))
        found += [f"{file}:{variant}" for variant in module.VARIANTS]
    return found


CONFIGS = [*specs("configs"), *specs("configs/studies")]
EVALUATIONS = specs("configs/eval")


def identify(spec: str) -> str:
    """Returns `file:variant`."""
    return pathlib.Path(spec).name.replace(".py:", ":")


def task_of(spec: str) -> Task:
    """Returns the task of the dataset that the file is named after, `method_dataset.py`.

    A study's comes first: `dataset_what.py`.
    """
    name = f"_{pathlib.Path(spec).name.split('.py:')[0]}_"
    task = TASKS[max((known for known in TASKS if f"_{known}_" in name), key=len)]
    data = load(spec).data
    size = data.image_size or data.pad_to or task.input_shape[0]
    return task._replace(input_shape=(size, size, task.input_shape[2]))


@functools.cache
def load(name: str) -> Config:
    """Returns the configuration `file.py:variant` of configs/, its file run once in a process."""
    return config.load(str(REPOSITORY / "configs" / name))


@functools.cache
def load_evaluation(name: str) -> Evaluation:
    """Returns the evaluation `file.py:variant` of configs/eval/, its file run once in a process."""
    return config.load_evaluation(str(REPOSITORY / "configs" / "eval" / name))


def parametrize(name, values):
    return pytest.mark.parametrize(name, values, ids=identify)
