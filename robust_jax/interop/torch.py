"""Imports a public PyTorch checkpoint as a directory that evaluate.py reads.

python -m robust_jax.interop.torch FILE --architecture NAME --out DIR
python -m robust_jax.interop.torch FILE FILE FILE --architecture NAME --out DIR

Several files of one architecture are the members of an ensemble, which decides by the mean of their
probabilities. docs/checkpoints.md says which public checkpoint has which name, and what accuracy is
published of it.

Architectures:
    resnet20_akamaster: CIFAR-10 ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10 (option A
        shortcuts, no convolution bias).
    parl_3x_resnet20: CIFAR-10 ensemble of three ResNet-20 of github.com/shubhishukla10/PARL
        (convolution bias, option B shortcuts, no norm in stem and shortcuts); decides by
        majority, ties to the lowest class.
    resnet18_torchvision, resnet34_torchvision, resnet50_torchvision: ImageNet's.
    resnet18_timm, resnet34_timm, resnet50_timm: timm's, which have torchvision's layout; of weights
        that are normalised otherwise than ImageNet's are --mean and --std must say it.
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

Robust architectures:
    resnet50_engstrom2019: bottleneck ResNet-50 with a 3 x 3 stem.
    preact_resnet18_wong2020, preact_resnet18_andriushchenko2020: PreAct-ResNet-18 whose projections
        start at a block's raw input, without a norm before the last layer; the latter's images are
        not normalised, and its file holds several networks (--entry last).
    preact_resnet18_rice2020: projections start at the activated input, and a norm (bn) comes before
        the last layer.
    wrn34_20_rice2020, wrn28_10_carmon2019, wrn34_10_zhang2019: wide networks of ReLUs
        (block1.layer.0.convShortcut, fc); images of the last two are not normalised, and arrays
        sub_block1.* are left out, which their networks never use.
    wrn28_10_gowal2020, wrn34_10_gowal2020, wrn34_20_gowal2020, wrn70_16_gowal2020,
        wrn106_16_gowal2020: DeepMind's wide networks of SiLUs (init_conv, batchnorm, logits).
    preact_resnet18_rebuffi2021, preact_resnet18_rade2021: DeepMind's PreAct-ResNet-18 of SiLUs,
        whose projections are 3 x 3.
    preact_resnet50_chen2020: pre-activation bottlenecks with a norm after stem and projections;
        three files are Chen et al.'s ensemble.

A file may be a state dict or hold one beside other things, of a network wrapped in DataParallel,
torch.compile, an averaged model or a Lightning module. A file NAME.safetensors is read without
PyTorch; others need the extra, pip install "robust_jax[torch]", and nothing in them is executed
(`weights_only`). --mean and --std, a number a channel for pixels in [0, 1], are what the images
were normalised by; they go before an architecture's own, and must be a file's where it holds them
(mu and sigma). `robust_jax.interop.export` writes such files.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import PyTree

from robust_jax.data import TFDS, DataConfig
from robust_jax.experiment import checkpoints
from robust_jax.experiment.config import Config
from robust_jax.interop.architecture import CIFAR10, IMAGENET
from robust_jax.interop.architectures import design_of
from robust_jax.interop.arrays import member_variables, names, normalization_in
from robust_jax.interop.torch_file import Tensor, load_state_dict
from robust_jax.methods import Standard
from robust_jax.models import EnsembleConfig, NetworkConfig, Normalization, stack_members
from robust_jax.runtime import command_line, logging

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# Parts of names that are never a network's own.
_WRAPPERS = frozenset({"module", "_orig_mod"})


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
        Every array of the network comes from the state dict and every entry of the state dict is
        used, but BatchNorm's `num_batches_tracked` and an average's `n_averaged`, which no
        computation here reads, and the architecture's `dead` ones, of which a line says so. The
        normalisation is the file's, where it holds one, else the one given, else the
        architecture's; where there is none it is None, and the variables hold none.

    Raises:
        ValueError: an unknown architecture; a missing or unknown name; a wrong shape; a value
            that is not finite; a normalisation given and another in the file.

    Example:
        >>> from robust_jax.interop import arrays
        >>> from robust_jax.interop.architectures import design_of
        >>> from robust_jax.interop.torch import import_state_dict
        >>> design = design_of("resnet20_akamaster")
        >>> shapes, names = arrays.expected(design), arrays.names(design, "module.")
        >>> file = {  # as `torch.load(FILE, weights_only=True)["state_dict"]` gives it
        ...     name: arrays.to_torch(np.ones(shapes[path].shape, np.float32), design, path)
        ...     for path, name in names.items()
        ... }
        >>> network, normalization, variables = import_state_dict(file, "resnet20_akamaster")
        >>> network.depth, network.shortcut, len(normalization.mean), sorted(variables)
        (20, 'A', 3, ['batch_stats', 'constants', 'params'])
        >>> import_state_dict({}, "resnet20_akamaster")
        Traceback (most recent call last):
            ...
        ValueError: Expected the file to hold resnet20_akamaster's arrays; missing: bn1.bias, ...
    """
    design = design_of(architecture)
    members = [names(design, prefix) for prefix in design.prefixes]
    wanted = {name for member in members for name in member.values()}
    given = _unwrapped(state_dict, wanted)
    own, told = normalization_in(given)
    if own is not None and normalization is not None and not _same(own, normalization):
        raise ValueError(
            f"Expected mean={normalization.mean} and std={normalization.std} to be those in the "
            f"file, {own.mean} and {own.std}."
        )
    design = design._replace(normalization=_chosen(own, normalization, design.normalization))
    dead = {name for name in given if name.startswith(design.dead)}
    missing = sorted(wanted - set(given))
    unknown = sorted(set(given) - wanted - told - dead)
    if missing or unknown:
        demand = "the file to hold {}'s arrays" if missing else "only {}'s arrays in the file"
        sides = {"missing": missing, "unknown": unknown}
        found = [f"{side}: {_listing(each)}" for side, each in sides.items() if each]
        raise ValueError(f"Expected {demand.format(architecture)}; {'; '.join(found)}.")
    for beginning in design.dead:
        if count := sum(name.startswith(beginning) for name in dead):
            logging.say(f"Left out, as the network never uses them: {count} arrays {beginning}*")
    variables = [member_variables(design, member, given) for member in members]
    whole = variables[0] if len(variables) == 1 else stack_members(variables)
    return design.network, design.normalization, whole


def import_ensemble(
    state_dicts: Sequence[Mapping[str, Tensor | np.ndarray]],
    architecture: str,
    normalization: Normalization | None = None,
) -> tuple[NetworkConfig, Normalization | None, dict[str, PyTree]]:
    """Returns, as `import_state_dict` does, the ensemble of networks from a state dict each.

    Args:
        state_dicts: of the networks, one each.
        architecture: name in `ARCHITECTURES`, of each of them.
        normalization: of all of them; None for the files' or the architecture's.

    Raises:
        ValueError: as there; fewer than two state dicts; an architecture that is an ensemble
            itself; members that normalise images in different ways.

    Example:
        >>> from robust_jax.interop.torch import import_ensemble
        >>> import_ensemble([{}, {}, {}], "parl_3x_resnet20")
        Traceback (most recent call last):
            ...
        ValueError: Expected one file: parl_3x_resnet20 is an ensemble of 3 in one.
        >>> import_ensemble([{}], "resnet20_akamaster")
        Traceback (most recent call last):
            ...
        ValueError: Expected len(state_dicts)=1 >= 2.
    """
    if len(state_dicts) < 2:
        raise ValueError(f"Expected len(state_dicts)={len(state_dicts)} >= 2.")
    if (number := len(design_of(architecture).prefixes)) > 1:
        raise ValueError(f"Expected one file: {architecture} is an ensemble of {number} in one.")
    members = [import_state_dict(each, architecture, normalization) for each in state_dicts]
    network, first, _ = members[0]
    for _, other, _ in members[1:]:
        if other != first:
            raise ValueError(f"Expected members to be normalised alike, not by {first}, {other}.")
    ensemble = EnsembleConfig(member=network, num_members=len(members))
    return ensemble, first, stack_members([variables for _, _, variables in members])


def _same(one: Normalization, other: Normalization) -> bool:
    """Returns whether two are the same in float32, in which they are computed with."""

    def numbers(value: Normalization) -> np.ndarray:
        return np.array([value.mean or (0, 0, 0), value.std or (1, 1, 1)], np.float32)

    return np.array_equal(numbers(one), numbers(other))


def _chosen(
    own: Normalization | None, given: Normalization | None, named: Normalization | None
) -> Normalization | None:
    """Returns the file's normalisation, in the numbers of who said the same; else what is said."""
    said = given if given is not None else named
    return said if own is None or (said is not None and _same(own, said)) else own


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


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the importer.

    Attributes:
        files: PyTorch checkpoint, or one for each member of an ensemble.
        architecture: which public network it is, see above.
        out: new directory to write.
        data_dir: folder of prepared TFDS datasets, where evaluate.py finds cifar10 or
            imagenet2012; None for TFDS's own default (evaluate.py --data-dir names another).
        mean: what images in [0, 1] were normalised by, a number a channel (0 0 0 with std 1 1 1
            for nothing); empty for what the architecture's name says.
        std: the deviations that go with it.
        entry: which state dict of a file that holds several; None for the only one.
    """

    files: tuple[pathlib.Path, ...]
    architecture: str
    out: pathlib.Path
    data_dir: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    entry: str | None = None

    def normalization(self) -> Normalization | None:
        """Returns the normalisation that is given; None where none is.

        Raises:
            ValueError: it is not three numbers in [0, 1] each.
        """
        if not self.mean and not self.std:
            return None
        for name, values in (("mean", self.mean), ("std", self.std)):
            # Longer than a pixel's range, they were meant for pixels in 0 .. 255.
            if len(values) != 3 or not all(0 <= value <= 1 for value in values):
                raise ValueError(f"Expected {name}={values} to be 3 numbers for pixels in [0, 1].")
        return Normalization(mean=self.mean, std=self.std)


def main(arguments: Arguments) -> None:
    """Writes the imported checkpoint.

    Raises:
        ValueError: no file, or see `import_state_dict`.
    """
    given = arguments.normalization()
    if not arguments.files:
        raise ValueError("Expected files=() to name a checkpoint.")
    state_dicts = [load_state_dict(file, arguments.entry) for file in arguments.files]
    if len(state_dicts) == 1:
        imported = import_state_dict(state_dicts[0], arguments.architecture, given)
    else:
        imported = import_ensemble(state_dicts, arguments.architecture, given)
    network, normalization, variables = imported
    if normalization is None:
        raise ValueError(
            f"Expected mean=() and std=() to be given: {arguments.architecture} is a layout, whose "
            "images are normalised in many ways (--mean 0 0 0 --std 1 1 1 for none)."
        )
    design = design_of(arguments.architecture)
    data = DataConfig(source=TFDS(name="cifar10", data_dir=arguments.data_dir))
    if design.task == IMAGENET:
        source = TFDS(name="imagenet2012", data_dir=arguments.data_dir)
        data = DataConfig(source=source, image_size=224, resize_to=256)
    config = Config(
        name=arguments.files[0].stem,
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
    by = f"normalised by mean {normalization.mean}, std {normalization.std}"
    logging.say(f"Images are {by if normalization.mean else 'not normalised'}.")
    files = " ".join(map(str, arguments.files))
    logging.say(f"Imported {files} as {arguments.architecture} into {arguments.out}")


if __name__ == "__main__":
    with command_line.one_line_errors():
        main(command_line.parse(Arguments, description=__doc__, positional="files"))
