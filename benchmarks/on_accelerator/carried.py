"""What a node without a network is brought: weights, images and the CPU's numbers, as .npz files.

resnet20.npz, resnet2b.npz   a network: its configuration (JSON) and arrays by path
test.npz                     the first test images, uint8, and their labels
train_00.npz, ...            training images in the dataset's order, parts of 12 MB
reference.npz                what `agreement` found on the CPU
commit.txt                   of the working tree
pyautoattack/                the official attack's sources, without the model in its wheel (44 MB)
                             unless it is asked for
checkpoints/                 the public PyTorch files, for `verdicts`
"""

import importlib.util
import json
import pathlib
import shutil
import subprocess
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import public_networks
from flax import traverse_util

from robust_jax import serialization
from robust_jax.data import TFDS, DataConfig, open_data
from robust_jax.methods import Standard
from robust_jax.models import ResNetConfig
from robust_jax.types import Task, Variables

TASK = Task(input_shape=(32, 32, 3), num_classes=10, num_train=50_000)
TOY = ResNetConfig(blocks=(1, 1), widths=(9, 15), shortcut="A")
"""Every network of a rehearsal; its channels fill sheets that kernels of 3 x 3 pool."""
NUM_TEST = 1024
PART_BYTES = 12_000_000
PACKED_IMAGE_BYTES = 2_900
"""More than a CIFAR image takes in a compressed archive (2.6 kB on average)."""


class Carried(NamedTuple):
    """A network that was carried.

    Attributes:
        config: the plain method of it.
        variables: its arrays.
    """

    config: Standard
    variables: Variables


def save_network(file: pathlib.Path, config: Standard, variables: Variables) -> None:
    """Writes a network."""
    flat = traverse_util.flatten_dict(jax.device_get(variables), sep="/")
    text = json.dumps(serialization.to_json(config))
    np.savez_compressed(file, config=np.asarray(text), **flat)  # pyright: ignore


def load_network(folder: pathlib.Path, name: str) -> Carried:
    """Returns a network that was carried.

    Raises:
        FileNotFoundError: it was not.
    """
    with np.load(folder / f"{name}.npz") as found:
        config = serialization.from_json(Standard, json.loads(str(found["config"])))
        flat = {path: jnp.asarray(found[path]) for path in found.files if path != "config"}
    return Carried(config, traverse_util.unflatten_dict(flat, sep="/"))


def load_images(folder: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [n h w k], uint8, and labels of "test" or "train", all parts of it."""
    files = sorted(folder.glob(f"{split}*.npz"))
    if not files:
        raise FileNotFoundError(f"Expected {folder} to hold {split}*.npz.")
    parts = []
    for file in files:
        with np.load(file) as found:
            parts.append((found["images"], found["labels"]))
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def prepare(
    folder: pathlib.Path,
    *,
    data_dir: str,
    checkpoints: pathlib.Path,
    num_train: int,
    wheel_model: bool = False,
) -> None:
    """Writes the folder from a prepared TFDS CIFAR-10 and the public checkpoints.

    Args:
        folder: to write; what it holds already is kept, so that a stopped start goes on.
        data_dir: of TFDS.
        checkpoints: folder of the public PyTorch files.
        num_train: how many training images to carry.
        wheel_model: carry the ResNet-18 in pyautoattack's wheel too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _prepare_networks(folder, checkpoints)
    data = open_data(DataConfig(TFDS("cifar10", data_dir=data_dir)))
    wanted = {"test.npz": (data.test, slice(0, NUM_TEST))}
    per_part = PART_BYTES // PACKED_IMAGE_BYTES
    for number, start in enumerate(range(0, num_train, per_part)):
        rows = slice(start, min(start + per_part, num_train))
        wanted[f"train_{number:02d}.npz"] = (data.train, rows)
    for name, (split, rows) in wanted.items():
        if not (folder / name).is_file():
            images, labels = (array[rows] for array in split.arrays)
            np.savez_compressed(folder / name, images=images, labels=labels)
            assert (folder / name).stat().st_size <= PART_BYTES, name
    copy_official_attack(folder, wheel_model=wheel_model)
    (folder / "checkpoints").mkdir(exist_ok=True)
    for file, _ in public_networks.FILES.values():
        if (checkpoints / file).is_file():
            shutil.copyfile(checkpoints / file, folder / "checkpoints" / file)


def _prepare_networks(folder: pathlib.Path, checkpoints: pathlib.Path) -> None:
    from robust_jax.interop import torch as importer

    for name, file, architecture in (
        ("resnet20", "akamaster_resnet20_cifar10.th", "resnet20_akamaster"),
        ("resnet2b", "vnncomp_resnet2b_cifar10.pth", "resnet2b_vnncomp"),
    ):
        if not (folder / f"{name}.npz").is_file():
            state = importer.load_state_dict(checkpoints / file)
            network, normalization, variables = importer.import_state_dict(state, architecture)
            config = Standard(network=network, normalization=normalization)
            save_network(folder / f"{name}.npz", config, variables)


def prepare_toy(folder: pathlib.Path) -> None:
    """Writes a folder of the same files at toy size: random weights and images."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny = Standard(network=TOY)
    for name in ("resnet20", "resnet2b"):
        variables = jax.jit(lambda key: tiny.make(TASK).init(key=key))(jax.random.key(0))
        save_network(folder / f"{name}.npz", tiny, variables)
    rng = np.random.default_rng(0)
    for name, size in (("test", 64), ("train_00", 128), ("train_01", 128)):
        images = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
        np.savez_compressed(folder / f"{name}.npz", images=images, labels=np.arange(size) % 10)
    copy_official_attack(folder)


def copy_official_attack(folder: pathlib.Path, *, wheel_model: bool = False) -> None:
    """Copies the sources of pyautoattack where it is installed, and the model in its wheel."""
    spec = importlib.util.find_spec("pyautoattack")
    if spec is None or spec.origin is None:
        return
    (folder / "pyautoattack").mkdir(exist_ok=True)
    for file in pathlib.Path(spec.origin).parent.glob("*.py"):
        if file.resolve().parent != (folder / "pyautoattack").resolve():
            shutil.copy(file, folder / "pyautoattack" / file.name)
    if wheel_model:
        model = pathlib.Path("pyautoattack", public_networks.FILES["resnet18"][0])
        (folder / model).parent.mkdir(exist_ok=True)
        shutil.copyfile(pathlib.Path(spec.origin).parents[1] / model, folder / model)


def write_commit(folder: pathlib.Path) -> None:
    """Keeps the name of the commit for a copy of the tree that has no history."""
    (folder / "commit.txt").write_text(commit(folder) + "\n")


def commit(folder: pathlib.Path) -> str:
    """Returns the commit of the working tree, "+" where it was changed; else the one carried."""

    def git(*words: str) -> str:
        here = pathlib.Path(__file__).parent
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        file = folder / "commit.txt"
        return file.read_text().strip() if file.is_file() else "unknown"


def as_float(images: np.ndarray) -> Any:
    """Returns uint8 images as float32 in [0, 1]."""
    return jnp.asarray(images.astype(np.float32) / np.float32(255))
