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

Needs the extra: pip install "robust_jax[torch]". Nothing in the file is executed (`weights_only`).
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from robust_jax import checkpoints, command_line, logging
from robust_jax.config import Config
from robust_jax.data import TFDS, DataConfig
from robust_jax.methods import Standard
from robust_jax.models import (
    Classifier,
    EnsembleConfig,
    NetworkConfig,
    Normalization,
    ResNetConfig,
    VGGConfig,
    default_layers,
    imagenet_vgg,
    stack_members,
)
from robust_jax.types import Task, Variables
from robust_jax.voting import Vote


class Architecture(NamedTuple):
    """A public checkpoint's network, and where its arrays are in the file.

    Attributes:
        member: architecture of the network, of an ensemble's members.
        prefixes: what stands before every name of each member; more than one for an ensemble.
        module_name: PyTorch's name of a module, from its path in our variables.
        normalization: of images, before the network.
        vote: how members decide.
        task: what it was trained on.
        positions: side of the grid of positions that a VGG's first linear layer flattens, whose
            rows PyTorch orders by channel first.
    """

    member: NetworkConfig
    prefixes: tuple[str, ...]
    module_name: Callable[[tuple[str, ...]], str]
    normalization: Normalization
    vote: Vote = "mean_probability"
    task: Task = Task(input_shape=(32, 32, 3), num_classes=10, num_train=50_000)
    positions: int = 1

    @property
    def network(self) -> NetworkConfig:
        """The whole network."""
        if len(self.prefixes) == 1:
            return self.member
        return EnsembleConfig(member=self.member, num_members=len(self.prefixes))


def _akamaster_name(path: tuple[str, ...]) -> str:
    outer = {"stem_conv": "conv1", "stem_norm": "bn1", "linear": "linear"}
    if path[0] in outer:
        return outer[path[0]]
    return f"{path[0].replace('_', '.')}.{path[1].replace('norm', 'bn')}"


def _parl_name(path: tuple[str, ...]) -> str:
    outer = {"stem_conv": "blocks.0.conv", "linear": "blocks.13"}
    if path[0] in outer:
        return outer[path[0]]
    stage, block = path[0].removeprefix("layer").split("_")
    inner = {"shortcut": "convr", "conv1": "conv1.conv", "conv2": "conv2.conv"}
    name = inner.get(path[1], path[1].replace("norm", "bn"))
    return f"blocks.{2 + 3 * (int(stage) - 1) + int(block)}.{name}"


def _torchvision_resnet_name(path: tuple[str, ...]) -> str:
    outer = {"stem_conv": "conv1", "stem_norm": "bn1", "linear": "fc"}
    if path[0] in outer:
        return outer[path[0]]
    inner = {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
    name = inner.get(path[1], path[1].replace("norm", "bn"))
    return f"{path[0].replace('_', '.')}.{name}"


def _cifar_resnet_name(path: tuple[str, ...]) -> str:
    name = _torchvision_resnet_name(path)
    return {"fc": "linear"}.get(name, name.replace("downsample", "shortcut"))


def _vgg_name(network: VGGConfig, linear: tuple[str, ...]) -> Callable[[tuple[str, ...]], str]:
    """Returns the name map of a VGG whose convolutions lie in the sequence `features`.

    Args:
        network: which.
        linear: names of its linear layers, the last one last.
    """
    numbers, place = {}, 0
    for number, last in enumerate(network.last_in_stage, 1):
        numbers[f"conv{number}"], numbers[f"norm{number}"] = place, place + 1
        # Convolution, norm, activation; a max pool ends the stage.
        place += 2 + network.norm + last

    def name(path: tuple[str, ...]) -> str:
        if path[0] == "linear":
            return linear[-1]
        if path[0].startswith("hidden"):
            return linear[int(path[0].removeprefix("hidden")) - 1]
        return f"features.{numbers[path[0]]}"

    return name


_IMAGENET = Task(input_shape=(224, 224, 3), num_classes=1000, num_train=1_281_167)
_IMAGENET_NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _vgg(network: VGGConfig, *linear: str, normalization: Normalization, **fields: Any):
    name = _vgg_name(network, linear)
    return Architecture(network, ("",), name, normalization, **fields)


ARCHITECTURES = {
    "resnet20_akamaster": Architecture(
        member=ResNetConfig(depth=20, shortcut="A"),
        prefixes=("",),
        module_name=_akamaster_name,
        normalization=Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    ),
    "parl_3x_resnet20": Architecture(
        member=ResNetConfig(depth=20, conv_bias=True, stem_norm=False, shortcut_norm=False),
        prefixes=("nets.0.", "nets.1.", "nets.2."),
        module_name=_parl_name,
        normalization=Normalization(mean=(0.4942, 0.4851, 0.4504), std=(0.2467, 0.2429, 0.2616)),
        vote="majority_lowest_class",
    ),
    **{
        f"resnet{depth}_torchvision": Architecture(
            member=ResNetConfig(depth=depth, stem="imagenet"),
            prefixes=("",),
            module_name=_torchvision_resnet_name,
            normalization=_IMAGENET_NORMALIZATION,
            task=_IMAGENET,
        )
        for depth in (18, 34, 50)
    },
    **{
        f"resnet{depth}_cifar": Architecture(
            member=ResNetConfig(depth=depth),
            prefixes=("",),
            module_name=_cifar_resnet_name,
            normalization=Normalization(),
        )
        for depth in (18, 34, 50)
    },
    **{
        f"vgg{depth}{'_bn' if norm else ''}_torchvision": _vgg(
            imagenet_vgg(depth, norm=norm),
            *("classifier.0", "classifier.3", "classifier.6"),
            normalization=_IMAGENET_NORMALIZATION,
            task=_IMAGENET,
            positions=7,
        )
        for depth in (16, 19)
        for norm in (False, True)
    },
    **{
        f"vgg{depth}_cifar": _vgg(VGGConfig(depth), "classifier", normalization=Normalization())
        for depth in (16, 19)
    },
    **{
        f"vgg{depth}_cifar_hidden": _vgg(
            VGGConfig(depth, norm=False, hidden=(512, 512)),
            *("classifier.1", "classifier.4", "classifier.6"),
            normalization=_IMAGENET_NORMALIZATION,
        )
        for depth in (16, 19)
    },
}

TASK = Task(input_shape=(32, 32, 3), num_classes=10, num_train=50_000)
"""CIFAR-10."""

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
            if path[-2] == "hidden1" and design.positions > 1:
                # Columns of channel, height, width -> height, width, channel.
                side = design.positions
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
    if design.task == _IMAGENET:
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
        class_names=CLASS_NAMES if design.task == TASK else (),
    )
    logging.say(f"Imported {arguments.file} as {arguments.architecture} into {arguments.out}")


if __name__ == "__main__":
    with command_line.one_line_errors():
        main(command_line.parse(Arguments, description=__doc__, positional="file"))
