"""Imports a public PyTorch checkpoint as a directory that evaluate.py reads.

python -m robust_jax.interop.torch FILE --architecture NAME --out DIR

Architectures:
    resnet20_akamaster: CIFAR-10 ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10 (option A
        shortcuts, no convolution bias).
    parl_3x_resnet20: CIFAR-10 ensemble of three ResNet-20 of github.com/shubhishukla10/PARL
        (convolution bias, option B shortcuts, no norm in stem and shortcuts); decides by
        majority, ties to the lowest class.
    resnet18_torchvision, resnet34_torchvision, resnet50_torchvision: ImageNet's.
    vgg16_torchvision, vgg16_bn_torchvision, vgg19_torchvision, vgg19_bn_torchvision: ImageNet's.
    resnet18_cifar, resnet34_cifar, resnet50_cifar: the common CIFAR layout (3 x 3 stem, projections
        at shortcut.0 and shortcut.1, last layer linear; github.com/kuangliu/pytorch-cifar), images
        not normalised.
    vgg16_cifar, vgg19_cifar: the same repository's VGG with BatchNorm (features.*, classifier).
    vgg16_cifar_hidden, vgg19_cifar_hidden: VGG without BatchNorm, with two hidden linear layers of
        512 (classifier.1, .4 and .6; github.com/chengyangfu/pytorch-vgg-cifar10).
    resnet2b_vnncomp, resnet4b_vnncomp: CIFAR-10 networks of the verification competition
        (github.com/Verified-Intelligence/alpha-beta-CROWN, cifar10_resnet): no norm, biases,
        a hidden linear layer on flattened activations.
    cnn_a_sdp: the same repository's CNN-A of the SDP verification benchmark: two 4 x 4
        convolutions, a hidden linear layer on flattened activations.

Needs the extra: pip install "robust_jax[torch]". Nothing in the file is executed (`weights_only`).
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from robust_jax import checkpoints, command_line, logging
from robust_jax.config import Config
from robust_jax.data import TFDS, DataConfig
from robust_jax.interop.architectures import ARCHITECTURES, CIFAR10, IMAGENET, Architecture
from robust_jax.methods import Standard
from robust_jax.models import (
    Classifier,
    NetworkConfig,
    Normalization,
    default_layers,
    stack_members,
)
from robust_jax.types import Variables

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

_ARRAY_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def import_state_dict(
    state_dict: Mapping[str, Any], architecture: str
) -> tuple[NetworkConfig, Normalization, dict[str, Any]]:
    """Returns the network, its normalisation and its variables from a PyTorch state dict.

    Args:
        state_dict: arrays or CPU tensors by name; a leading "module." (DataParallel) is dropped.
        architecture: a key of `ARCHITECTURES`.

    Guarantees:
        Every array of the network comes from the state dict and every entry of the state dict
        is used, but BatchNorm's `num_batches_tracked`, which no computation here reads.

    Raises:
        ValueError: an unknown architecture; a missing or unknown name; a wrong shape; a value
            that is not finite.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"Expected architecture={architecture!r} to be one of {sorted(ARCHITECTURES)}."
        )
    design = ARCHITECTURES[architecture]
    given = _without_data_parallel(state_dict)
    names = [_member_names(design, prefix) for prefix in design.prefixes]
    wanted = {name for member in names for name in member.values()}
    counters = {name for name in given if name.endswith(".num_batches_tracked")}
    if missing := sorted(wanted - set(given)):
        raise ValueError(_listing(f"Expected the file to hold {architecture}'s arrays", missing))
    if unknown := sorted(set(given) - wanted - counters):
        raise ValueError(_listing(f"Expected only {architecture}'s arrays in the file", unknown))
    members = [_member_variables(design, member, given) for member in names]
    variables = members[0] if len(members) == 1 else stack_members(members)
    return design.network, design.normalization, variables


def _without_data_parallel(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    if all(name.startswith("module.") for name in state_dict):
        return {name.removeprefix("module."): value for name, value in state_dict.items()}
    return dict(state_dict)


def _listing(demand: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    kind = "missing" if "to hold" in demand else "unknown"
    return f"{demand}; {kind}: {', '.join(names[:3])}{more}."


def _expected(design: Architecture) -> dict[tuple[str, ...], Any]:
    """Returns the shape of every array of a member's classifier, by path, without constants."""
    backbone = design.member.make(design.task.num_classes, default_layers())
    images = jax.ShapeDtypeStruct((1, *design.task.input_shape), jnp.float32)
    variables: Variables = jax.eval_shape(
        lambda key, images: Classifier(backbone).init(key, images, train=False, deterministic=True),
        jax.random.key(0),
        images,
    )
    return dict(traverse_util.flatten_dict(variables))


def _member_names(design: Architecture, prefix: str) -> dict[tuple[str, ...], str]:
    """Returns the name in the file of every array of a member, by its path in our variables."""
    return {
        # A path is collection, "backbone", modules..., array.
        path: f"{prefix}{design.module_name(path[2:-1])}.{_ARRAY_NAMES[path[-1]]}"
        for path in _expected(design)
    }


def _member_variables(
    design: Architecture, names: Mapping[tuple[str, ...], str], given: Mapping[str, Any]
) -> dict[str, Any]:
    found = {}
    for path, expected in _expected(design).items():
        name = names[path]
        value = np.asarray(given[name])
        if value.ndim == 4:  # output, input, height, width -> height, width, input, output
            value = value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            side = design.member.positions
            first = "hidden1" if design.member.hidden else "linear"
            if path[-2] == first and value.shape[1] % side**2 == 0:
                # Columns of channel, height, width -> height, width, channel.
                grid = value.reshape(len(value), -1, side, side)
                value = grid.transpose(0, 2, 3, 1).reshape(value.shape)
            value = value.T
        if value.shape != expected.shape:
            raise ValueError(
                f"Expected {name} of shape {np.shape(given[name])} to fit {expected.shape} "
                f"({'/'.join(path)})."
            )
        if not np.all(np.isfinite(value)):
            raise ValueError(f"Expected {name} to be finite.")
        found[path] = jnp.asarray(value, expected.dtype)
    normalization = design.normalization
    if normalization.mean:
        found["constants", "mean"] = jnp.asarray(normalization.mean, jnp.float32)
        found["constants", "std"] = jnp.asarray(normalization.std, jnp.float32)
    return traverse_util.unflatten_dict(found)


def load_state_dict(file: str | pathlib.Path) -> dict[str, Any]:
    """Returns the state dict of a file, one under the key "state_dict" included.

    Raises:
        ValueError: no such file, not a PyTorch file of plain arrays, or PyTorch is missing.
    """
    if not pathlib.Path(file).is_file():
        raise ValueError(f"Expected file={str(file)!r} to exist.")
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            'Expected PyTorch to be installed: pip install "robust_jax[torch]".'
        ) from error
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Its message advises to load without weights_only, which would execute the file.
        raise ValueError(
            f"Expected file={str(file)!r} to be a PyTorch file of plain arrays and whole "
            f"({type(error).__name__})."
        ) from error
    found = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ValueError(f"Expected file={str(file)!r} to hold a state dict.")
    return {name: value.numpy() for name, value in found.items()}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the importer.

    Attributes:
        file: PyTorch checkpoint.
        architecture: which public network it is, see above.
        out: new directory to write.
        data_dir: folder of prepared TFDS datasets, where evaluate.py finds cifar10 or
            imagenet2012; None for TFDS's own default (evaluate.py --data-dir names another).
    """

    file: pathlib.Path
    architecture: str
    out: pathlib.Path
    data_dir: str | None = None


def main(arguments: Arguments) -> None:
    """Writes the imported checkpoint."""
    state_dict = load_state_dict(arguments.file)
    network, normalization, variables = import_state_dict(state_dict, arguments.architecture)
    design = ARCHITECTURES[arguments.architecture]
    data = DataConfig(source=TFDS(name="cifar10", data_dir=arguments.data_dir))
    if design.task == IMAGENET:
        source = TFDS(name="imagenet2012", data_dir=arguments.data_dir)
        data = DataConfig(source=source, image_size=224, resize_to=256)
    config = Config(
        name=arguments.file.stem,
        data=data,
        method=Standard(network=network, normalization=normalization, vote=design.vote),
    )
    checkpoints.save_model(
        arguments.out,
        variables,
        config=config,
        task=design.task,
        class_names=CLASS_NAMES if design.task == CIFAR10 else (),
    )
    logging.say(f"Imported {arguments.file} as {arguments.architecture} into {arguments.out}")


if __name__ == "__main__":
    with command_line.one_line_errors():
        main(command_line.parse(Arguments, description=__doc__, positional="file"))
