"""Experiment configurations: what configs/*.py return, train.py runs and a checkpoint keeps."""

import dataclasses
import importlib.util
import pathlib
import sys
import types

from robust_jax import serialization
from robust_jax.data import DataConfig
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.methods import MethodConfig
from robust_jax.runtime.sharding import RuntimeConfig
from robust_jax.training.config import TrainingConfig
from robust_jax.training.optimizers import OptimizerConfig


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

    The file defines `get_config(variant="default") -> Config` and `VARIANTS`.

    Raises:
        ValueError: no such file, or no such variant in it.
    """
    module, variant = load_module(spec)
    config = module.get_config(variant)
    if not isinstance(config, Config):
        raise ValueError(f"Expected {spec!r} to give a Config (evaluations go to evaluate.py).")
    return serialization.check(config)


def load_evaluation(spec: str) -> Evaluation:
    """Returns the evaluation of a file of configs/eval: `get_config(variant) -> Evaluation`.

    Raises:
        ValueError: no such file, or no such variant in it.
    """
    module, variant = load_module(spec)
    evaluation = module.get_config(variant)
    if not isinstance(evaluation, Evaluation):
        raise ValueError(f"Expected {spec!r} to give an Evaluation (a Config goes to train.py).")
    return serialization.check(evaluation)


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
    """Returns the module of a config file and the variant that `spec` names.

    Raises:
        ValueError: no such file, or no such variant in it.
    """
    file, _, variant = spec.partition(".py:")
    path = pathlib.Path(file if file.endswith(".py") else file + ".py")
    variant = variant or "default"
    if not path.is_file():
        raise ValueError(f"Expected config={str(path)!r} to be a file.")
    module_spec = importlib.util.spec_from_file_location(f"robust_jax_config_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    # Config files share helpers by importing one another: of their folder and the one above it.
    folders = [str(folder) for folder in path.resolve().parents[:2]]
    sys.path[:0] = folders
    try:
        module_spec.loader.exec_module(module)
    finally:
        del sys.path[: len(folders)]
    if variant not in module.VARIANTS:
        raise ValueError(f"Expected variant={variant!r} of {path} in {list(module.VARIANTS)}.")
    return module, variant
