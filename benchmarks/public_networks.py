"""The public CIFAR-10 networks that benchmarks attack, with the first test images."""

import functools
import importlib.util
import pathlib

import jax
import numpy as np

from robust_jax import voting
from robust_jax.attacks import bind, straight_through
from robust_jax.data import TFDS
from robust_jax.interop.torch import import_state_dict, load_state_dict
from robust_jax.models import (
    Classifier,
    EnsembleConfig,
    NetworkConfig,
    Normalization,
    default_layers,
)
from robust_jax.types import Variables, View

FILES = {
    "resnet20": ("akamaster_resnet20_cifar10.th", "resnet20_akamaster"),
    "surrogate1": ("parl_repo_surrogate1_cifar10_3x_resnet20.pth", "parl_3x_resnet20"),
    "parl5": ("parl_repo_parl5_cifar10_3x_resnet20.pth", "parl_3x_resnet20"),
    "resnet2b": ("vnncomp_resnet2b_cifar10.pth", "resnet2b_vnncomp"),
    "resnet4b": ("vnncomp_resnet4b_cifar10.pth", "resnet4b_vnncomp"),
    "cnn_a_adv": ("sdp_cnn_a_adv_cifar10.model", "cnn_a_sdp"),
    "cnn_a_mix": ("sdp_cnn_a_mix_cifar10.model", "cnn_a_sdp"),
    "resnet18": ("examples/model_test.pt", "resnet18_cifar"),
}
"""File and layout of each; `resnet18` is in the wheel of pyautoattack. The ResNet-2B and 4B and the
CNN-A are trained for robustness, the others are not."""


def load(
    name: str, checkpoints: pathlib.Path, data_dir: str, num_images: int
) -> tuple[View, np.ndarray, np.ndarray]:
    """Returns the view of a network, the first test images and their labels."""
    test = TFDS(name="cifar10", data_dir=data_dir).load().test
    images, labels = zip(*(test[row] for row in range(num_images)), strict=True)
    images = np.stack(images).astype(np.float32) / np.float32(255)
    return view_of(name, checkpoints), images, np.array(labels, np.int32)


def view_of(name: str, checkpoints: pathlib.Path) -> View:
    """Returns the view of a network.

    An ensemble decides by the mean of its members' probabilities; "parl5:majority" by the majority
    of their votes, with the gradient of that mean.
    """
    name, _, rule = name.partition(":")
    network, normalization, variables = parts_of(name, checkpoints)
    classifier = Classifier(network.make(10, default_layers()), normalization)
    apply = functools.partial(_logits, classifier, isinstance(network, EnsembleConfig))
    view = bind(apply, variables)
    if rule:
        view = straight_through(bind(functools.partial(_votes, classifier), variables), view)
    return view


def parts_of(
    name: str, checkpoints: pathlib.Path
) -> tuple[NetworkConfig, Normalization, Variables]:
    """Returns a network's configuration, what it does to pixels, and its arrays."""
    file, layout = FILES[name]
    if name == "resnet18":
        spec = importlib.util.find_spec("pyautoattack")
        assert spec, "pip install pyautoattack"
        checkpoints = pathlib.Path(str(spec.origin)).parent
    network, known, variables = import_state_dict(load_state_dict(checkpoints / file), layout)
    # A layout that fixes none: its examples take pixels in [0, 1] as they are.
    return network, known or Normalization(), variables


def _logits(classifier, is_ensemble, variables, images, *, key):
    del key
    outputs = classifier.apply(variables, images, train=False, deterministic=True)
    return voting.mean_probability(outputs.member_logits) if is_ensemble else outputs.logits


def _votes(classifier, variables, images, *, key):
    del key
    outputs = classifier.apply(variables, images, train=False, deterministic=True)
    return voting.majority(outputs.member_logits, ties="lowest_class")


def standing_of(view: View, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns which images the view, which does not draw, classifies right."""
    forward = jax.jit(lambda view, images: view(images, key=jax.random.key(0)))
    parts = [images[first : first + 64] for first in range(0, len(images), 64)]
    scores = np.concatenate([forward(view, part) for part in parts])
    return np.argmax(scores, axis=1) == labels
