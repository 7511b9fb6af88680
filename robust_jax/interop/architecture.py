"""What a public PyTorch checkpoint is: its network, and where its arrays are in the file."""

from collections.abc import Callable
from typing import NamedTuple

from robust_jax.models import (
    CNNConfig,
    EnsembleConfig,
    NetworkConfig,
    Normalization,
    PreActResNetConfig,
    ResNetConfig,
    VGGConfig,
    WideResNetConfig,
)
from robust_jax.types import Task
from robust_jax.voting import Vote

Path = tuple[str, ...]
"""Of modules in a network's variables."""

CIFAR10 = Task(input_shape=(32, 32, 3), num_classes=10, num_train=50_000)
IMAGENET = Task(input_shape=(224, 224, 3), num_classes=1000, num_train=1_281_167)

NOTHING = Normalization()
"""Of networks of images in [0, 1]."""
IMAGENET_NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR_NORMALIZATION = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))
"""By the deviations of CIFAR-10's pixels."""
NARROW_NORMALIZATION = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
"""By the mean deviation within an image, as pytorch-cifar has it."""

CIFAR_LAYOUTS = {"cifar": None, "pytorch_cifar": NARROW_NORMALIZATION}
"""Normalisation of who has the common CIFAR layout: anybody, or that repository's own training."""


class Architecture(NamedTuple):
    """A public checkpoint's network, and where its arrays are in the file.

    Attributes:
        member: architecture of the network, of an ensemble's members.
        prefixes: what stands before every name of each member; more than one for an ensemble in one
            file.
        module_name: PyTorch's name of a module, from its path in our variables.
        normalization: of images, before the network; None where the name does not say, so that
            whoever imports must.
        vote: how members decide.
        task: what it was trained on.
        dead: beginnings of names that the file may hold and the network never uses.
        buffers: names of the normalisation's mean and deviation in the network's state dict; None
            where it has none.
        counted: does it count batches in every BatchNorm, as networks do since PyTorch 0.4.1?
    """

    member: ResNetConfig | PreActResNetConfig | WideResNetConfig | VGGConfig | CNNConfig
    prefixes: tuple[str, ...]
    module_name: Callable[[Path], str]
    normalization: Normalization | None
    vote: Vote = "mean_probability"
    task: Task = CIFAR10
    dead: tuple[str, ...] = ()
    buffers: tuple[str, str] | None = None
    counted: bool = True

    @property
    def network(self) -> NetworkConfig:
        """The whole network."""
        if len(self.prefixes) == 1:
            return self.member
        return EnsembleConfig(member=self.member, num_members=len(self.prefixes))
