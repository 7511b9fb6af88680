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
    resnet18_pytorch_cifar, resnet34_pytorch_cifar, resnet50_pytorch_cifar: networks of
        github.com/kuangliu/pytorch-cifar (3 x 3 stem, projections at shortcut.0 and shortcut.1,
        last layer linear), images normalised as its main.py does.
    vgg16_pytorch_cifar, vgg19_pytorch_cifar: its VGG with BatchNorm (features.*, classifier).
    resnet18_cifar, resnet34_cifar, resnet50_cifar, vgg16_cifar, vgg19_cifar: the same layouts,
        which many repositories have; how images were normalised must be said (--mean, --std).
    vgg16_cifar_hidden, vgg19_cifar_hidden: VGG without BatchNorm, with two hidden linear layers of
        512 (classifier.1, .4 and .6; github.com/chengyangfu/pytorch-vgg-cifar10).
    resnet2b_vnncomp, resnet4b_vnncomp: CIFAR-10 networks of the verification competition
        (github.com/Verified-Intelligence/alpha-beta-CROWN, cifar10_resnet): no norm, biases,
        a hidden linear layer on flattened activations.
    cnn_a_sdp: the same repository's CNN-A of the SDP verification benchmark: two 4 x 4
        convolutions, a hidden linear layer on flattened activations.

A file may be a state dict or hold one beside other things, of a network wrapped in DataParallel,
torch.compile, an averaged model or a Lightning module. --mean and --std, a number a channel for
pixels in [0, 1], are what the images were normalised by; they go before an architecture's own.

Needs the extra: pip install "robust_jax[torch]". Nothing in the file is executed (`weights_only`).
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from robust_jax.data import TFDS, DataConfig
from robust_jax.experiment import checkpoints
from robust_jax.experiment.config import Config
from robust_jax.interop.architectures import ARCHITECTURES, CIFAR10, IMAGENET, Architecture
from robust_jax.interop.torch_file import Tensor, as_numpy, load_state_dict
from robust_jax.methods import Standard
from robust_jax.models import (
    Classifier,
    NetworkConfig,
    Normalization,
    default_layers,
    stack_members,
)
from robust_jax.runtime import command_line, logging
from robust_jax.types import Variables

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# Parts of names that are never a network's own.
_WRAPPERS = frozenset({"module", "_orig_mod"})

_ARRAY_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def import_state_dict(
    state_dict: Mapping[str, Tensor | np.ndarray],
    architecture: str,
    normalization: Normalization | None = None,
) -> tuple[NetworkConfig, Normalization | None, dict[str, PyTree]]:
    """Returns the network, its normalisation and its variables from a PyTorch state dict.

    Args:
        state_dict: arrays or tensors by name. What wrappers put before or into names is
            dropped: "module." (DataParallel), "_orig_mod." (torch.compile), "model." and the like.
        architecture: a key of `ARCHITECTURES`.
        normalization: of images; None for the architecture's own.

    Guarantees:
        Every array of the network comes from the state dict and every entry of the state dict
        is used, but BatchNorm's `num_batches_tracked` and an average's `n_averaged`, which no
        computation here reads. The normalisation is the one given or the architecture's; where
        there is neither it is None, and the variables hold none.

    Raises:
        ValueError: an unknown architecture; a missing or unknown name; a wrong shape; a value
            that is not finite.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"Expected architecture={architecture!r} to be one of {sorted(ARCHITECTURES)}."
        )
    design = ARCHITECTURES[architecture]
    if normalization is not None:
        design = design._replace(normalization=normalization)
    names = [_member_names(design, prefix) for prefix in design.prefixes]
    wanted = {name for member in names for name in member.values()}
    given = _unwrapped(state_dict, wanted)
    missing, unknown = sorted(wanted - set(given)), sorted(set(given) - wanted)
    if missing or unknown:
        demand = "the file to hold {}'s arrays" if missing else "only {}'s arrays in the file"
        sides = {"missing": missing, "unknown": unknown}
        found = [f"{side}: {_listing(each)}" for side, each in sides.items() if each]
        raise ValueError(f"Expected {demand.format(architecture)}; {'; '.join(found)}.")
    members = [_member_variables(design, member, given) for member in names]
    variables = members[0] if len(members) == 1 else stack_members(members)
    return design.network, design.normalization, variables


def _unwrapped(
    state_dict: Mapping[str, Tensor | np.ndarray], wanted: set[str]
) -> dict[str, Tensor | np.ndarray]:
    """Returns the arrays that matter, under the names in which most of the wanted ones are found.

    Names lose the parts that wrappers put anywhere in them, and the beginning that most of the
    wanted ones have ("model.", "net.0."). Entries without it keep their names, so that they are
    seen to be unknown.
    """
    names = [
        name
        for name in state_dict
        if not (name.endswith("num_batches_tracked") or name == "n_averaged")
    ]
    bare = [".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names]
    best, most = names, -1
    for given in (names, bare):
        found: collections.Counter[str] = collections.Counter()
        for name in given:
            parts = name.split(".")
            ends = ((i, ".".join(parts[i:])) for i in range(len(parts)))
            found.update("".join(f"{p}." for p in parts[:i]) for i, end in ends if end in wanted)
        prefix = max(found, key=lambda each: (found[each], -len(each)), default="")
        renamed = [name.removeprefix(prefix) for name in given]
        # Two entries that would have one name are left apart.
        if found[prefix] > most and len(set(renamed)) == len(names):
            best, most = renamed, found[prefix]
    return {new: state_dict[name] for name, new in zip(names, best, strict=True)}


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


@functools.cache
def _expected(design: Architecture) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Returns the shape of every array of a member's classifier, by path, without constants."""
    backbone = design.member.make(design.task.num_classes, default_layers())
    images = jax.ShapeDtypeStruct((1, *design.task.input_shape), jnp.float32)
    variables: Variables = jax.eval_shape(
        lambda key, images: Classifier(backbone).init(key, images, train=False, deterministic=True),
        jax.random.key(0),
        images,
    )
    return {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(variables).items()
        if isinstance(leaf, jax.ShapeDtypeStruct)
    }


def _member_names(design: Architecture, prefix: str) -> dict[tuple[str, ...], str]:
    """Returns the name in the file of every array of a member, by its path in our variables."""
    return {
        # A path is collection, "backbone", modules..., array.
        path: f"{prefix}{design.module_name(path[2:-1])}.{_ARRAY_NAMES[path[-1]]}"
        for path in _expected(design)
    }


def _member_variables(
    design: Architecture,
    names: Mapping[tuple[str, ...], str],
    given: Mapping[str, Tensor | np.ndarray],
) -> dict[str, PyTree]:
    found = {}
    for path, expected in _expected(design).items():
        name = names[path]
        value = as_numpy(given[name], name)
        if not np.issubdtype(value.dtype, np.floating):
            raise ValueError(f"Expected {name} of dtype {value.dtype} to be floating.")
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
            shape = expected.shape  # in PyTorch's order, as in the file
            shape = (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else shape
            raise ValueError(
                f"Expected {name} of shape {tuple(given[name].shape)} to fit {shape} "
                f"({'/'.join(path)})."
            )
        if not np.all(np.isfinite(value)):
            raise ValueError(f"Expected {name} to be finite.")
        if path[-1] == "var" and np.any(value < 0):
            raise ValueError(f"Expected {name} >= 0: it is a variance.")
        found[path] = jnp.asarray(value, expected.dtype)
    normalization = design.normalization
    if normalization is not None and normalization.mean:
        found["constants", "mean"] = jnp.asarray(normalization.mean, jnp.float32)
        found["constants", "std"] = jnp.asarray(normalization.std, jnp.float32)
    return traverse_util.unflatten_dict(found)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the importer.

    Attributes:
        file: PyTorch checkpoint.
        architecture: which public network it is, see above.
        out: new directory to write.
        data_dir: folder of prepared TFDS datasets, where evaluate.py finds cifar10 or
            imagenet2012; None for TFDS's own default (evaluate.py --data-dir names another).
        mean: what images in [0, 1] were normalised by, a number a channel (0 0 0 with std 1 1 1
            for nothing); empty for what the architecture's name says.
        std: the deviations that go with it.
        entry: which state dict of a file that holds several; None for the only one.
    """

    file: pathlib.Path
    architecture: str
    out: pathlib.Path
    data_dir: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    entry: str | None = None

    def normalization(self) -> Normalization | None:
        """Returns the normalisation that is given; None where none is."""
        if not self.mean and not self.std:
            return None
        for name, values in (("mean", self.mean), ("std", self.std)):
            # Longer than a pixel's range, they were meant for pixels in 0 .. 255.
            if len(values) != 3 or not all(0 <= value <= 1 for value in values):
                raise ValueError(f"Expected {name}={values} to be 3 numbers for pixels in [0, 1].")
        return Normalization(mean=self.mean, std=self.std)


def main(arguments: Arguments) -> None:
    """Writes the imported checkpoint."""
    given = arguments.normalization()
    state_dict = load_state_dict(arguments.file, arguments.entry)
    network, normalization, variables = import_state_dict(state_dict, arguments.architecture, given)
    if normalization is None:
        raise ValueError(
            f"Expected mean=() and std=() to be given: {arguments.architecture} is a layout, whose "
            "images are normalised in many ways (--mean 0 0 0 --std 1 1 1 for none)."
        )
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
    by = f"mean {normalization.mean}, std {normalization.std}"
    logging.say(f"Images are normalised by {by}.")
    logging.say(f"Imported {arguments.file} as {arguments.architecture} into {arguments.out}")


if __name__ == "__main__":
    with command_line.one_line_errors():
        main(command_line.parse(Arguments, description=__doc__, positional="file"))
