"""A configuration with something else in a part of it, and the name of its variant."""

import dataclasses
from typing import Any

from robust_jax.experiment.config import Config


def with_method(config: Config, **fields: Any) -> Config:
    """Returns the configuration with these fields of its method replaced."""
    return dataclasses.replace(config, method=dataclasses.replace(config.method, **fields))


def with_optimizer(config: Config, **fields: Any) -> Config:
    """Returns the configuration with these fields of its optimizer replaced."""
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **fields))


def with_training(config: Config, **fields: Any) -> Config:
    """Returns the configuration with these fields of its training replaced."""
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **fields))


def named(config: Config, file: str, variant: str) -> Config:
    """Returns the configuration under the name of its file and variant (its work directory)."""
    name = file if variant == "default" else f"{file}-{variant}"
    return dataclasses.replace(config, name=name)
