"""Writes a model in the layout of a public PyTorch checkpoint.

python -m robust_jax.interop.export DIR --architecture NAME --out FILE

DIR is a work directory of train.py or of `robust_jax.interop.torch`, whose --help lists the names;
what is there must be that very network. FILE ends in .safetensors, or PyTorch writes it
(pip install "robust_jax[torch]"). An ensemble whose members have a file each is written to FILE_m0,
FILE_m1 and so on, before the suffix, as RobustBench names them.

Names, shapes and dtypes are those of the network's state dict in its repository, so that its class
loads them; counts of batches, which nothing here keeps, are 0. What decides besides the arrays is
said in a line: by what images are normalised, where the layout has no place for it, and the vote.
"""

import dataclasses
import pathlib
import sys

import numpy as np
from flax import traverse_util

from robust_jax.experiment import checkpoints
from robust_jax.interop.architecture import Architecture
from robust_jax.interop.architectures import design_of
from robust_jax.interop.arrays import expected, names, to_torch
from robust_jax.interop.torch_file import check_new, save_state_dict
from robust_jax.methods.network import NetworkMethod
from robust_jax.models import EnsembleConfig, NetworkConfig, Normalization, member_variables
from robust_jax.runtime import command_line, logging, python_file, sharding
from robust_jax.types import Variables

__all__ = ["export_state_dicts"]


def export_state_dicts(
    network: NetworkConfig,
    normalization: Normalization,
    variables: Variables,
    architecture: str,
) -> tuple[dict[str, np.ndarray], ...]:
    """Returns what `import_state_dict` reads: arrays by PyTorch's names, a state dict a file.

    Args:
        network: what the variables are of.
        normalization: of images, as it is configured; the variables' own constants go before it.
        variables: of a classifier around the network.
        architecture: a key of `ARCHITECTURES`.

    Guarantees:
        Imported again they are the variables, to the bit. There is one state dict, but of an
        ensemble of an architecture that is a single network: then one of each member.

    Raises:
        ValueError: an unknown architecture, or a network, a normalisation or variables that are
            not what it has.

    Example:
        >>> from robust_jax.interop.architectures import design_of
        >>> from robust_jax.interop.export import export_state_dicts
        >>> from robust_jax.models import Classifier, default_layers
        >>> design = design_of("resnet20_akamaster")
        >>> network = Classifier(design.network.make(10, default_layers()), design.normalization)
        >>> def init(key):
        ...     return network.init(key, jnp.zeros((1, 32, 32, 3)), train=False, deterministic=True)
        >>> shapes = jax.eval_shape(init, jax.random.key(0))
        >>> weights = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
        >>> (file,) = export_state_dicts(
        ...     design.network, design.normalization, weights, "resnet20_akamaster"
        ... )
        >>> file["conv1.weight"].shape, file["linear.bias"].shape
        ((16, 3, 3, 3), (10,))
    """
    design = design_of(architecture)
    several = len(design.prefixes) > 1
    members = network.num_members if isinstance(network, EnsembleConfig) else 1
    member = network.member if isinstance(network, EnsembleConfig) else network
    if several and members != len(design.prefixes):
        raise ValueError(f"Expected num_members={members} to be {len(design.prefixes)}.")
    if member != design.member:
        raise ValueError(
            f"Expected network to be {architecture}'s: {_difference(member, design.member)}."
        )
    by = normalised_by(normalization, variables)
    alone = [variables]
    if isinstance(network, EnsembleConfig):
        alone = [member_variables(variables, number) for number in range(members)]
    prefixes = design.prefixes if several else ("",) * members
    found = [
        _state_dict(design, each, prefix) for each, prefix in zip(alone, prefixes, strict=True)
    ]
    if several:
        found = [{name: value for each in found for name, value in each.items()}]
    if design.buffers is not None:
        channels = np.zeros(design.task.input_shape[-1], np.float32)
        pair = (channels, channels + 1) if by is None else by
        for name, value in zip(design.buffers, pair, strict=True):
            for each in found:
                each[name] = np.array(value, np.float32).reshape(1, -1, 1, 1)
    return tuple(found)


def normalised_by(
    normalization: Normalization, variables: Variables
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the mean and the standard deviation of every channel; None where there are none.

    A network goes on with the numbers of the checkpoint that it started from (`init_from`), which
    are among its variables, whatever its configuration says.

    Raises:
        ValueError: they are no numbers per channel, or not known.
    """
    if "constants" not in variables:
        if normalization.statistics != "given":
            raise ValueError(
                f"Expected normalization={normalization} to be numbers that are given."
            )
        if not normalization.mean:
            return None
        return np.array(normalization.mean), np.array(normalization.std)
    mean, std = (np.asarray(variables["constants"][name]) for name in ("mean", "std"))
    if mean.ndim != 1:
        raise ValueError(f"Expected the mean of shape {mean.shape} to be numbers per channel.")
    return mean, std


def _difference(given: NetworkConfig, wanted: NetworkConfig) -> str:
    """Returns in what a network is another than the wanted one."""
    if type(given) is not type(wanted):
        return f"{type(given).__name__} in place of {type(wanted).__name__}"
    differ = [name for name, value in vars(wanted).items() if getattr(given, name) != value]
    return ", ".join(
        f"{name}={getattr(given, name)!r} in place of {getattr(wanted, name)!r}" for name in differ
    )


def _state_dict(design: Architecture, variables: Variables, prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays of one member by name."""
    flat = traverse_util.flatten_dict(dict(variables))
    given = {path: np.asarray(value) for path, value in flat.items() if path[0] != "constants"}
    held = {path: value.shape for path, value in given.items()}
    shapes = {path: value.shape for path, value in expected(design).items()}
    if other := sorted(path for path in held | shapes if held.get(path) != shapes.get(path)):
        first = other[0]
        raise ValueError(
            f"Expected variables to hold {'/'.join(first)} of shape {shapes.get(first)}, not "
            f"{held.get(first)}."
        )
    found = {}
    for path, name in names(design, prefix).items():
        found[name] = to_torch(given[path], design, path)
        if path[-1] == "var" and design.counted:
            found[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return found


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the exporter.

    Attributes:
        directory: work directory that holds the checkpoint.
        architecture: in which layout, see above.
        out: new file to write.
        step: which checkpoint; None for the best.
    """

    directory: pathlib.Path
    architecture: str
    out: pathlib.Path
    step: int | None = None

    def files(self, number: int) -> list[pathlib.Path]:
        """Returns the name of every file, of one or of several."""
        if number == 1:
            return [self.out]
        return [self.out.with_stem(f"{self.out.stem}_m{i}") for i in range(number)]


def main(arguments: Arguments) -> None:
    """Writes the file or files."""
    mesh = sharding.make_mesh(1)
    checkpoint = checkpoints.load(arguments.directory, mesh, step=arguments.step)
    method = checkpoint.config.method
    acting = [change for change in method.all_changes if tuple(change.phases) != ("training",)]
    if type(method).make is not NetworkMethod.make or acting:
        raise ValueError(
            f"Expected method={type(method).__name__} to decide by a plain network, whose layers "
            "nothing changes at prediction."
        )
    state_dicts = export_state_dicts(
        method.network, method.normalization, checkpoint.variables, arguments.architecture
    )
    files = arguments.files(len(state_dicts))
    for file in files:  # all of them, before the first is written
        check_new(file)
    for state_dict, file in zip(state_dicts, files, strict=True):
        save_state_dict(state_dict, file)
        logging.say(f"Wrote {file}")
    numbers = normalised_by(method.normalization, checkpoint.variables)
    if design_of(arguments.architecture).buffers is None and numbers is not None:
        mean, std = (tuple(round(float(value), 6) for value in one) for one in numbers)
        by = f"mean {mean}, std {std}"
        logging.say(f"Images are to be normalised by {by}, which stands in no file.")
    if isinstance(method.network, EnsembleConfig):
        logging.say(f"Members decide by {method.vote}, which stands in no file.")


if __name__ == "__main__":
    with command_line.one_line_errors():
        asked = command_line.parse(
            Arguments, args=python_file.defined(sys.argv[1:]), positional="directory",
            description=python_file.described(__doc__),
        )  # fmt: skip
        main(asked)
