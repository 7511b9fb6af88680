"""Experiment configurations: what configs/*.py return, train.py runs and a checkpoint keeps."""

import dataclasses
import pathlib
import re
import types
from typing import TypeVar

from robust_jax import serialization
from robust_jax.data import DataConfig
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.methods import MethodConfig
from robust_jax.runtime.python_file import run_file
from robust_jax.runtime.sharding import RuntimeConfig
from robust_jax.training.config import TrainingConfig
from robust_jax.training.optimizers import OptimizerConfig

T = TypeVar("T")

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "configs"
LIBRARY = INSTALLED if (INSTALLED / "__init__.py").is_file() else PACKAGE.parent / "configs"
"""The library's own configurations: in an installed package, or beside it in a checkout."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment.

    Attributes:
        name: names the default work directory, runs/NAME.
        data: dataset, splits and augmentation.
        method: defence and network.
        optimizer: optimizer and learning-rate schedule.
        training: phases, adversarial examples in the step, selection of the best checkpoint.
        evaluation: what train.py prints at its end and evaluate.py runs by default.
        seed: root of every random key of the training run.
        runtime: devices and logging; may change between runs of one work directory, as
            `evaluation` may.

    Raises:
        ValueError: a seed that no key has; adversarial training of what attacks by itself, or of
            images with noise.

    Example:
        >>> from robust_jax.data import DataConfig, Digits
        >>> from robust_jax.experiment.config import Config
        >>> from robust_jax.methods import KAP
        >>> from robust_jax.training import Phase, TrainingConfig
        >>> training = TrainingConfig(phases=(Phase(epochs=30.0, batch_size=64),))
        >>> method = KAP(sigma=0.1)
        >>> config = Config("kap_digits", DataConfig(Digits()), method, training=training, seed=1)
        >>> config.optimizer.name, config.evaluation.attacks  # as they are by default
        ('sgd', {})
    """

    name: str
    data: DataConfig
    method: MethodConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    seed: int = 0
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"Expected 0 <= seed={self.seed} < 2**32, a key's.")
        if self.training.adversarial is not None:
            self._check_adversarial()

    def _check_adversarial(self) -> None:
        moving = [term for term in self.method.all_terms if term.views or term.moves_images]
        if moving:
            raise ValueError(
                f"Expected training.adversarial to be None: {type(moving[0]).__name__} of the "
                "method moves images itself, and would move those of that attack, in a ball around "
                "a ball."
            )
        noise = self.data.augmentation.noise
        if noise:
            raise ValueError(
                f"Expected augmentation.noise={noise} to be 0 with training.adversarial, which "
                "keeps to the box of pixels: noise of the network's own is `InputNoise`."
            )


MAY_CHANGE = (
    "runtime",
    "evaluation",
    "data.memory",
    "data.num_workers",
    "data.source.data_dir",
    "data.source.path",
)
"""What may differ when a work directory is resumed: none of it changes the trained weights."""


def load(spec: str) -> Config:
    """Returns the configuration of a file: `configs/kap_cifar10.py` or `...py:sigma0.2`.

    Raises:
        ValueError: see `load_module`; or the file gives something else.

    Example:
        >>> from robust_jax.experiment.config import load
        >>> config = load("kap_cifar10:sigma0.2")  # of the library; or a FILE.py[:VARIANT]
        >>> config.name, config.method.sigma
        ('kap_cifar10-sigma0.2', 0.2)
    """
    return _load(spec, Config)


def load_evaluation(spec: str) -> Evaluation:
    """Returns the evaluation of a file: `configs/eval/kap.py:table1`.

    Raises:
        ValueError: see `load_module`; or the file gives something else.

    Example:
        >>> from robust_jax.experiment.config import load_evaluation
        >>> list(load_evaluation("eval/kap:table1").judges)
        ['noise off']
    """
    return _load(spec, Evaluation)


def _load(spec: str, kind: type[T]) -> T:
    module, variant = load_module(spec)
    found = module.get_config(variant)
    if not isinstance(found, kind):
        takers = "train.py takes Config, evaluate.py takes Evaluation"
        raise ValueError(f"Expected {spec!r} to give {kind.__name__} ({takers}).")
    return serialization.check(found)


def renamed(config: Config, default: Config) -> Config:
    """Returns the configuration, named "...-changed" where its method is not its file's any more.

    Names find the paper's printed row, and the work directory where none is given.
    """
    if config.method == default.method or config.name != default.name:
        return config
    return dataclasses.replace(config, name=f"{config.name}-changed")


def with_data_dir(data: DataConfig, data_dir: str | None) -> DataConfig:
    """Returns the data configuration with its dataset at another place; None changes nothing.

    Raises:
        ValueError: the source has no place.
    """
    if data_dir is None:
        return data
    fields = {field.name for field in dataclasses.fields(data.source)}
    places = fields & {"data_dir", "path"}
    if not places:
        kind = type(data.source).__name__
        raise ValueError(f"Expected data_dir={data_dir!r} to be None: {kind} lies nowhere.")
    moved = dataclasses.replace(data.source, **{places.pop(): data_dir})
    return dataclasses.replace(data, source=moved)


def load_module(spec: str) -> tuple[types.ModuleType, str]:
    """Returns the module of a configuration file and the variant that `spec` names.

    `spec` is a file, with or without ".py", and after ":" a variant of it. What the working
    directory does not have is looked for among the library's own files, so that
    `configs/quickstart.py`, `quickstart` and `eval/kap:table1` are found everywhere.

    A file defines `VARIANTS`, their names, and `get_config(variant="default")`. It may import
    whatever Python finds (robust_jax, what is installed), and by relative imports its neighbours,
    where it lies in a package (a folder with `__init__.py`). It is run anew at every call, its
    neighbours once in a process.

    Raises:
        ValueError: no such file, no such variant in it, or a file that lacks a definition.
    """
    match = re.fullmatch(r"(.+?)(?:\.py)?(?::([^:/\\]+))?", spec)
    file, variant = match.groups(default="default") if match else (spec, "default")
    path = found = pathlib.Path(f"{file}.py")
    if not path.is_file() and not path.is_absolute():
        found = LIBRARY.joinpath(*path.parts[path.parts[0] == "configs" :])
    if not found.is_file():
        raise ValueError(f"Expected config={str(path)!r} to be a file.")
    module = run_file(found)
    for name in ("VARIANTS", "get_config"):
        if not hasattr(module, name):
            raise ValueError(f"Expected {path} to define {name}.")
    if variant not in module.VARIANTS:
        raise ValueError(f"Expected variant={variant!r} of {path} in {list(module.VARIANTS)}.")
    return module, variant
