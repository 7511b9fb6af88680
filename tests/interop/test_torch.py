"""Public checkpoints: the same function as in PyTorch, the published accuracies, bad files."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import voting
from robust_jax.experiment import checkpoints
from robust_jax.interop import torch as importer
from robust_jax.interop.architecture import CIFAR10
from robust_jax.models import Classifier, default_layers
from robust_jax.runtime import sharding
from robust_jax.runtime.compilation import jitted

torch = pytest.importorskip("torch", reason="needs the extra robust_jax[torch]")

FILES = {
    "akamaster": ("akamaster_resnet20_cifar10.th", "resnet20_akamaster"),
    "surrogate1": ("parl_repo_surrogate1_cifar10_3x_resnet20.pth", "parl_3x_resnet20"),
    "parl5": ("parl_repo_parl5_cifar10_3x_resnet20.pth", "parl_3x_resnet20"),
}


def load(folder: pathlib.Path, name: str):
    """Returns the state dict, and the imported network as a jitted function of its variables."""
    file, architecture = FILES[name]
    state_dict = importer.load_state_dict(folder / file)
    network, normalization, variables = importer.import_state_dict(state_dict, architecture)
    classifier = Classifier(network.make(10, default_layers()), normalization)

    def member_logits(variables, images):
        outputs = classifier.apply(variables, images, train=False, deterministic=True)
        return outputs.member_logits

    return state_dict, variables, jitted(member_logits)


class Reference:
    """Both checkpoints' forward pass written with PyTorch's functions, from their own code."""

    def __init__(self, state_dict, prefix=""):
        self.arrays = {
            name.removeprefix(prefix): torch.from_numpy(np.array(value))
            for name, value in state_dict.items()
            if name.startswith(prefix)
        }

    def conv(self, x, name, stride=1):
        weight = self.arrays[f"{name}.weight"]
        bias = self.arrays.get(f"{name}.bias")
        return torch.nn.functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def norm(self, x, name):
        mean, var, weight, bias = (
            self.arrays[f"{name}.{each}"]
            for each in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.nn.functional.batch_norm(x, mean, var, weight, bias)

    def akamaster(self, x):
        """Option A: (planes // 4) zero channels on each side."""
        x = torch.relu(self.norm(self.conv(x, "conv1"), "bn1"))
        for stage, planes in enumerate((16, 32, 64), 1):
            for i in range(3):
                name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
                y = torch.relu(self.norm(self.conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
                y = self.norm(self.conv(y, f"{name}.conv2"), f"{name}.bn2")
                if stride == 2:
                    pad = (0, 0, 0, 0, planes // 4, planes // 4)
                    x = torch.nn.functional.pad(x[:, :, ::2, ::2], pad)
                x = torch.relu(x + y)
        return self.linear(x, "linear")

    def parl(self, x):
        x = torch.relu(self.conv(x, "blocks.0.conv"))
        for block in range(2, 11):
            name, stride = f"blocks.{block}", 2 if block in (5, 8) else 1
            y = torch.relu(self.norm(self.conv(x, f"{name}.conv1.conv", stride), f"{name}.bn1"))
            y = self.norm(self.conv(y, f"{name}.conv2.conv"), f"{name}.bn2")
            if stride == 2:
                x = self.conv(x, f"{name}.convr", 2)
            x = torch.relu(x + y)
        return self.linear(x, "blocks.13")

    def linear(self, x, name):
        weight, bias = self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"]
        return torch.nn.functional.linear(x.mean((2, 3)), weight, bias)


IMAGES = np.random.default_rng(0).uniform(size=(64, 32, 32, 3)).astype(np.float32)


def to_torch(images, mean, std):
    normalized = (images - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy())


def test_resnet20_is_the_function_that_pytorch_computes(public_checkpoints):
    state_dict, variables, run = load(public_checkpoints, "akamaster")
    images = to_torch(IMAGES, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = Reference(state_dict, "module.").akamaster(images)
    logits = run(variables, jnp.asarray(IMAGES))
    assert logits.shape == (1, 64, 10)
    np.testing.assert_allclose(logits[0], expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_ensemble_is_the_function_that_pytorch_computes(public_checkpoints):
    state_dict, variables, run = load(public_checkpoints, "parl5")
    images = to_torch(IMAGES, (0.4942, 0.4851, 0.4504), (0.2467, 0.2429, 0.2616))
    logits = run(variables, jnp.asarray(IMAGES))
    for member in range(3):
        expected = Reference(state_dict, f"nets.{member}.").parl(images)
        np.testing.assert_allclose(logits[member], expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def cifar10_test(tfds_dir):
    """The 10,000 test images and labels, in the order of the prepared dataset."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar10", data_dir=tfds_dir, file_format="array_record")
    rows = builder.as_data_source(split="test")
    rows = [rows[i] for i in range(len(rows))]
    images = np.stack([row["image"] for row in rows])
    return images, np.array([row["label"] for row in rows])


@pytest.mark.usefixtures("quick_programs")
@pytest.mark.parametrize(
    ("name", "members", "majority", "mean_probability"),
    [
        pytest.param("akamaster", [9173], 9173, 9173, marks=pytest.mark.slow),
        pytest.param("parl5", [8713, 8503, 8632], 8823, 8852, marks=pytest.mark.nightly),
        pytest.param("surrogate1", [9173, 9119, 9163], 9309, 9354, marks=pytest.mark.nightly),
    ],
)
def test_published_accuracies(
    public_checkpoints, cifar10_test, name, members, majority, mean_probability
):
    images, labels = cifar10_test
    _, variables, run = load(public_checkpoints, name)
    parts = [
        run(variables, jnp.asarray(part, jnp.float32) / 255)
        for part in np.split(images, len(images) // 500)
    ]
    logits = jnp.concatenate(parts, axis=1)

    def num_correct(scores):
        return int(np.sum(np.argmax(scores, -1) == labels))

    assert len(labels) == 10_000
    assert [num_correct(member) for member in logits] == members
    assert num_correct(voting.scores(logits, "majority_lowest_class")) == majority
    assert num_correct(voting.scores(logits, "mean_probability")) == mean_probability


@pytest.mark.slow
def test_command_writes_a_checkpoint_that_is_read_back(public_checkpoints, tmp_path):
    file, architecture = FILES["parl5"]
    arguments = importer.Arguments(
        files=(public_checkpoints / file,), architecture=architecture, out=tmp_path / "imported"
    )
    importer.main(arguments)
    checkpoint = checkpoints.load(tmp_path / "imported", sharding.make_mesh())
    assert checkpoint.config.method.vote == "majority_lowest_class"
    assert checkpoint.task == CIFAR10
    _, variables, run = load(public_checkpoints, "parl5")
    jax.tree.map(np.testing.assert_array_equal, checkpoint.variables, variables)
    method = checkpoint.config.method.make(checkpoint.task)
    images = jnp.asarray(IMAGES)
    np.testing.assert_allclose(
        jax.jit(method.predict)(variables, images),
        voting.scores(run(variables, images), "majority_lowest_class"),
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match="to hold no checkpoints yet"):
        importer.main(arguments)


@pytest.fixture
def state_dict(public_checkpoints):
    """The ResNet-20's state dict."""
    return importer.load_state_dict(public_checkpoints / FILES["akamaster"][0])


def test_wrong_state_dicts(state_dict):
    def load(**changes):
        changed = {**state_dict, **{f"module.{k}": v for k, v in changes.items()}}
        kept = {name: value for name, value in changed.items() if value is not None}
        return importer.import_state_dict(kept, "resnet20_akamaster")

    with pytest.raises(ValueError, match=r"missing: linear.bias\.$"):
        load(**{"linear.bias": None})
    with pytest.raises(ValueError, match=r"unknown: fc.bias\.$"):
        load(**{"fc.bias": np.zeros(10, np.float32)})
    with pytest.raises(ValueError, match=r"linear.weight of shape \(100, 64\) to fit \(10, 64\)"):
        load(**{"linear.weight": np.zeros((100, 64), np.float32)})
    with pytest.raises(ValueError, match=r"Expected bn1\.bias to be finite"):
        load(**{"bn1.bias": np.full(16, np.nan, np.float32)})
    with pytest.raises(ValueError, match=r"Expected bn1\.running_var >= 0"):
        load(**{"bn1.running_var": np.full(16, -1, np.float32)})
    with pytest.raises(ValueError, match="Expected the file to hold parl_3x_resnet20's arrays"):
        importer.import_state_dict(state_dict, "parl_3x_resnet20")
    with pytest.raises(ValueError, match="Expected architecture='resnet20' to be one of"):
        importer.import_state_dict(state_dict, "resnet20")
    # Newer PyTorch counts batches in every BatchNorm.
    load(**{"bn1.num_batches_tracked": np.zeros((), np.int64)})


def test_wrong_files(tmp_path):
    with pytest.raises(ValueError, match="to exist"):
        importer.load_state_dict(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="to be a PyTorch file of plain arrays"):
        importer.load_state_dict(tmp_path / "text.pth")
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "number.pth")
    with pytest.raises(ValueError, match="to hold a state dict"):
        importer.load_state_dict(tmp_path / "number.pth")


def test_missing_pytorch_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "file.pth").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"pip install \"robust_jax\[torch\]\""):
        importer.load_state_dict(tmp_path / "file.pth")


class Code:
    """Something that a pickle would execute."""

    def __reduce__(self):
        return print, ("executed",)


def test_code_in_a_file_is_not_executed(tmp_path, capsys):
    torch.save({"state_dict": Code()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="to be a PyTorch file of plain arrays"):
        importer.load_state_dict(tmp_path / "code.pth")
    assert "executed" not in capsys.readouterr().out
