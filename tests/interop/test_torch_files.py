"""Files as repositories write them: wrappers, entries, dtypes, normalisation said or refused."""

import argparse
import pathlib
import warnings

import jax
import numpy as np
import pytest

from robust_jax.data import TFDS
from robust_jax.experiment import checkpoints
from robust_jax.interop import arrays
from robust_jax.interop import torch as importer
from robust_jax.interop.architectures import ARCHITECTURES
from robust_jax.models import Normalization, VGGConfig
from robust_jax.runtime import command_line, sharding

torch = pytest.importorskip("torch", reason="needs the extra robust_jax[torch]")
nn = torch.nn

PLAIN = "vgg16_cifar_hidden"
"""Stands for every architecture: a sequence of modules, which DataParallel can wrap by itself."""


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """The same layouts, of few channels."""
    widths = (4, 4, 4, 4, 4)
    for name, network in {
        PLAIN: VGGConfig(16, norm=False, widths=widths, hidden=(6, 6)),
        "vgg16_cifar": VGGConfig(16, widths=widths),
        "vgg16_pytorch_cifar": VGGConfig(16, widths=widths),
    }.items():
        design = ARCHITECTURES[name]
        monkeypatch.setitem(ARCHITECTURES, name, design._replace(member=network))


def state(architecture=PLAIN):
    """Arrays of the names and shapes that the architecture's file has."""
    design = ARCHITECTURES[architecture]
    shapes = arrays.expected(design)
    rng = np.random.default_rng(0)
    found = {}
    for path, name in arrays.names(design, "").items():
        *lead, inputs, outputs = (
            (0, *shapes[path].shape) if path[-1] != "kernel" else (shapes[path].shape)
        )
        shape = (outputs,) if path[-1] != "kernel" else (outputs, inputs, *lead)
        # Sixteen-bit values, so that a narrow dtype rounds nothing away.
        values = torch.from_numpy(rng.uniform(0.1, 0.2, shape)).bfloat16()
        found[name] = values.float()
    return found


def within(prefix):
    return lambda state: {prefix + name: value for name, value in state.items()}


WRITTEN = {
    "state dict": lambda state: state,
    "pytorch-cifar": lambda state: {"net": within("module.")(state), "acc": 95.0, "epoch": 199},
    "pytorch-vgg-cifar10": lambda state: {
        "epoch": 300,
        "state_dict": {k.replace("features.", "features.module."): v for k, v in state.items()},
        "best_prec1": torch.tensor(92.0),
    },
    "model and optimizer": lambda state: {
        "model": state,
        "optimizer": {"state": {0: {"momentum_buffer": state["features.0.weight"]}}},
    },
    "model_state_dict": lambda state: {"model_state_dict": state, "args": argparse.Namespace(lr=1)},
    "numpy's numbers": lambda state: {"weights": state, "acc": np.float64(0.9), "it": np.int64(3)},
    "torch.compile": within("_orig_mod."),
    "torch.compile in DataParallel": within("module._orig_mod."),
    "Lightning": lambda state: {
        "state_dict": within("model.")(state),
        "pytorch-lightning_version": "2.5",
        "hyper_parameters": {"lr": 0.1},
    },
    "wrapped twice": within("model.net.1."),
    "stochastic weight averaging": lambda state: {
        "n_averaged": torch.tensor(5),
        **within("module.")(state),
    },
    "batches counted": lambda state: {
        **within("module.")(state),
        "module.features.1.num_batches_tracked": torch.tensor(7),
    },
    "bfloat16": lambda state: {name: value.bfloat16() for name, value in state.items()},
    "float64": lambda state: {name: value.double() for name, value in state.items()},
    "parameters": lambda state: {name: nn.Parameter(value) for name, value in state.items()},
}


@pytest.mark.parametrize("written", WRITTEN)
def test_files_as_their_repositories_write_them(tmp_path, written):
    expected = importer.import_state_dict(state(), PLAIN)
    torch.save(WRITTEN[written](state()), tmp_path / "file.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = importer.import_state_dict(importer.load_state_dict(tmp_path / "file.pth"), PLAIN)
    assert found[:2] == expected[:2]
    jax.tree.map(np.testing.assert_array_equal, found[2], expected[2])


def test_a_file_with_several_state_dicts_wants_one_named(tmp_path):
    file = tmp_path / "file.pth"
    torch.save({"model": state(), "ema": {k: v * 2 for k, v in state().items()}}, file)
    with pytest.raises(ValueError, match=r"entry=None to name one state dict of .*: model, ema\.$"):
        importer.load_state_dict(file)
    with pytest.raises(ValueError, match=r"entry='net' to be a state dict of .*: model, ema\.$"):
        importer.load_state_dict(file, "net")
    np.testing.assert_array_equal(
        importer.load_state_dict(file, "ema")["features.0.bias"], state()["features.0.bias"] * 2
    )


def test_a_mismatch_names_keys_of_both_sides():
    given = within("net.")(state())
    given["net.features.1.weight"] = given.pop("net.features.0.weight")
    given["criterion.weight"] = torch.ones(10)
    with pytest.raises(ValueError) as error:
        importer.import_state_dict(given, PLAIN)
    assert str(error.value) == (
        f"Expected the file to hold {PLAIN}'s arrays; missing: features.0.weight; "
        "unknown: criterion.weight, features.1.weight."
    )
    # Two networks in one: which is meant is not for the importer to say.
    both = within("model.")(state()) | within("ema.")(state())
    with pytest.raises(ValueError, match=r"Expected only .* unknown: \w+\.classifier\.1\.bias"):
        importer.import_state_dict(both, PLAIN)
    # Parameters and half precision as a module hands them out, without a file between.
    for handed in (nn.Parameter, lambda value: value.bfloat16()):
        found = importer.import_state_dict({k: handed(v) for k, v in state().items()}, PLAIN)[2]
        jax.tree.map(
            np.testing.assert_array_equal, found, importer.import_state_dict(state(), PLAIN)[2]
        )
    quantized = state() | {"classifier.6.bias": torch.ones(10, dtype=torch.int8)}
    with pytest.raises(ValueError, match=r"classifier.6.bias of dtype int8 to be floating"):
        importer.import_state_dict(quantized, PLAIN)


def test_a_whole_module_is_refused_by_name(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"holds torch\.nn\.modules\.linear\.Linear; save model"):
        importer.load_state_dict(tmp_path / "file.pth")
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(ValueError, match=r"Expected w of .*sparse\.pth to be a plain array"):
        importer.load_state_dict(tmp_path / "sparse.pth")


def command(file, architecture, out, *words):
    arguments = ["--architecture", architecture, "--out", str(out), *words]
    importer.main(
        command_line.parse(importer.Arguments, args=[str(file), *arguments], positional="files")
    )


@pytest.mark.slow
def test_normalisation_is_the_architectures_or_given(tmp_path, caplog):
    file = tmp_path / "net.pth"
    torch.save({"net": state("vgg16_cifar")}, file)
    with pytest.raises(
        ValueError, match=r"Expected mean=\(\) and std=\(\) to be given: vgg16_cifar"
    ):
        command(file, "vgg16_cifar", tmp_path / "refused")
    for words, message in (
        (("--mean", ".5", "--std", ".5"), r"mean=\(0\.5,\) to be 3 numbers"),
        (("--mean", "125.3", "123", "113.9", "--std", "63", "62.1", "66.7"), r"pixels in \[0, 1\]"),
        (("--mean", ".5", ".5", ".5"), r"std=\(\) to be 3 numbers"),
        (("--mean", ".5", ".5", ".5", "--std", "0", "1", "1"), r"Expected std=.* > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            command(file, "vgg16_cifar", tmp_path / "refused", *words)
    assert not (tmp_path / "refused").exists()

    given = ("--mean", ".4914", ".4822", ".4465", "--std", ".2023", ".1994", "51.255/255")
    command(file, "vgg16_cifar", tmp_path / "given", *given)
    assert not caplog.records  # nothing of orbax's on the screen
    checkpoint = checkpoints.load(tmp_path / "given", sharding.make_mesh(1))
    # That of the repository's own training, and what the network computes with.
    named = ARCHITECTURES["vgg16_pytorch_cifar"].normalization
    assert checkpoint.config.method.normalization == named
    assert named == Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    _, _, variables = importer.import_state_dict(state("vgg16_cifar"), "vgg16_pytorch_cifar")
    jax.tree.map(np.testing.assert_array_equal, checkpoint.variables, variables)
    np.testing.assert_array_equal(variables["constants"]["mean"], np.float32(named.mean))


@pytest.mark.slow
def test_a_normalised_network_is_as_right_as_in_its_repository(tmp_path, tfds_dir, monkeypatch):
    """96.1 % of 128 images; read as a network of [0, 1] it would have 39.8 %."""
    monkeypatch.undo()  # the layout in its own width
    wheel = pytest.importorskip("pyautoattack", reason="needs pyautoattack (.[parity])")
    file = pathlib.Path(wheel.__file__).parent / "examples" / "model_test.pt"
    arrays = torch.load(file, map_location="cpu", weights_only=True)
    # Of a network of [0, 1] the one that pytorch-cifar's training would have found.
    named = ARCHITECTURES["resnet18_pytorch_cifar"].normalization
    mean, std = map(torch.tensor, (named.mean, named.std))
    kernel = arrays["conv1.weight"]
    arrays["bn1.running_mean"] -= (kernel * mean[None, :, None, None]).sum((1, 2, 3))
    arrays["conv1.weight"] = kernel * std[None, :, None, None]
    torch.save({"net": arrays}, tmp_path / "net.pth")
    command(tmp_path / "net.pth", "resnet18_pytorch_cifar", tmp_path / "run")
    checkpoint = checkpoints.load(tmp_path / "run", sharding.make_mesh(1))
    predict = jax.jit(checkpoint.config.method.make(checkpoint.task).predict)
    test = TFDS("cifar10", data_dir=str(tfds_dir)).load().test
    images, labels = map(np.stack, zip(*(test[row] for row in range(128)), strict=True))
    scores = predict(checkpoint.variables, images.astype(np.float32) / np.float32(255))
    assert np.sum(np.argmax(scores, axis=1) == labels) == 123


@pytest.mark.parametrize(
    ("mean", "std"), [((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), ((-2.0,) * 3, (0.2,) * 3)]
)
def test_a_normalisation_of_other_pixels_is_refused(mean, std):
    given = {"mean": np.float32(mean), "std": np.float32(std)}
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        arrays.normalization_in(given)
