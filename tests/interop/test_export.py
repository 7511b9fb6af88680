"""Layouts without a referee: names one to one, dead arrays said, and files that are read back."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from robust_jax.experiment import checkpoints
from robust_jax.interop import arrays, export, torch_file
from robust_jax.interop import torch as importer
from robust_jax.interop.architectures import ARCHITECTURES, design_of
from robust_jax.interop.robust_layouts import ROBUST_NETWORKS
from robust_jax.interop.torch_file import load_state_dict, save_state_dict
from robust_jax.models import (
    EnsembleConfig,
    Normalization,
    PreActResNetConfig,
    ResNetConfig,
    VGGConfig,
    WideResNetConfig,
    verification_resnet,
)
from robust_jax.runtime import command_line, sharding

NAMES = {
    "resnet50_engstrom2019": (267, "layer1.0.shortcut.1.running_var", "layer4.2.bn3.bias"),
    "resnet18_timm": (102, "layer2.0.downsample.0.weight", "fc.bias"),
    "preact_resnet18_wong2020": (86, "layer2.0.shortcut.0.weight", "layer1.0.bn1.running_mean"),
    "preact_resnet18_rice2020": (90, "bn.running_var", "linear.weight"),
    "wrn34_20_rice2020": (160, "block1.layer.0.convShortcut.weight", "fc.weight"),
    "wrn28_10_carmon2019": (130, "block3.layer.3.bn2.bias", "bn1.running_mean"),
    "wrn28_10_gowal2020": (130, "layer.0.block.0.shortcut.weight", "layer.2.block.3.conv_1.weight"),
    "wrn70_16_gowal2020": (340, "layer.1.block.10.batchnorm_1.weight", "logits.bias"),
    "preact_resnet18_rade2021": (90, "layer_3.0.conv_2d_2.weight", "layer_1.0.batchnorm_0.bias"),
    "preact_resnet50_chen2020": (267, "layer1.0.bn0.weight", "layer4.0.shortcut.1.bias"),
}
"""How many arrays a network has, counts of batches apart, and some of their names."""

WHOLE = dict(ARCHITECTURES)


@pytest.mark.quick_one_in(6)
@pytest.mark.parametrize("architecture", NAMES)
def test_every_array_has_one_name(architecture):
    number, *some = NAMES[architecture]
    names = arrays.names(WHOLE[architecture], "")
    assert len(names) == len(set(names.values())) == number
    assert set(some) <= set(names.values())


def test_the_documented_names_are_those_that_there_are(repository):
    documented = (repository / "docs" / "checkpoints.md").read_text()
    named = set(re.findall(r"--architecture ([a-z]\w+)", documented))
    assert named <= set(ARCHITECTURES)
    assert set(ROBUST_NETWORKS) <= named
    assert importer.__doc__ is not None
    assert set(ARCHITECTURES) <= set(re.findall(r"\w+", importer.__doc__))


NARROW = {
    "preact_resnet18_wong2020": PreActResNetConfig(
        (4, 4, 6, 6), final_norm=False, shortcut_start="raw"
    ),
    "preact_resnet18_rade2021": PreActResNetConfig(
        (4, 4, 6, 6),
        activation="silu",
        framework="torch_same",
        shortcut_start="raw",
        shortcut_size=3,
    ),
    "preact_resnet50_chen2020": PreActResNetConfig(
        (2, 2, 3, 3), final_norm=False, depth=50, stem_norm=True, shortcut_norm=True
    ),
    "wrn28_10_carmon2019": WideResNetConfig(10, 1),
    "vgg16_cifar_hidden": VGGConfig(16, norm=False, widths=(4, 4, 4, 4, 4), hidden=(6, 6)),
    "resnet2b_vnncomp": verification_resnet(1, width=4, positions=8),
    "parl_3x_resnet20": dataclasses.replace(
        ARCHITECTURES["parl_3x_resnet20"].member, width_multiplier=1 / 4
    ),
    "resnet18_timm": ResNetConfig(18, stem="imagenet", width_multiplier=1 / 16),
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """The same layouts, of few channels."""
    for name, network in NARROW.items():
        design = ARCHITECTURES[name]._replace(member=network)
        monkeypatch.setitem(ARCHITECTURES, name, design)


def state(architecture, seed=0):
    """Arrays of the names, shapes and dtypes that the architecture's file has."""
    design, rng = design_of(architecture), np.random.default_rng(seed)
    found = {}
    for prefix in design.prefixes:
        for path, name in arrays.names(design, prefix).items():
            *lead, outputs = arrays.expected(design)[path].shape
            shape = (outputs, *reversed(lead[-1:]), *lead[:-1])
            found[name] = rng.uniform(0.1, 1.0, shape).astype(np.float32)
            if path[-1] == "var":
                count = name.replace("running_var", "num_batches_tracked")
                found[count] = np.zeros((), np.int64)
    for name, values in zip(
        design.buffers or (), (design.normalization.mean, design.normalization.std), strict=False
    ):
        found[name] = np.array(values, np.float32).reshape(1, 3, 1, 1)
    return found


def check_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


def exported(imported, architecture):
    network, normalization, variables = imported
    normalization = normalization or Normalization()
    return export.export_state_dicts(network, normalization, variables, architecture)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("architecture", [name for name in NARROW if "chen" not in name])
def test_what_is_imported_is_exported_to_the_bit(architecture):
    given = state(architecture)
    imported = importer.import_state_dict(given, architecture)
    (found,) = exported(imported, architecture)
    check_same(found, given)
    again = importer.import_state_dict(found, architecture)
    assert again[:2] == imported[:2]
    jax.tree.map(np.testing.assert_array_equal, again[2], imported[2])


@pytest.mark.slow
def test_files_of_members_are_an_ensemble_and_its_files_again():
    name = "preact_resnet50_chen2020"
    given = [state(name, seed) for seed in range(3)]
    imported = importer.import_ensemble(given, name)
    assert imported[0] == EnsembleConfig(NARROW[name], num_members=3)
    for found, one in zip(exported(imported, name), given, strict=True):
        check_same(found, one)
    with pytest.raises(ValueError, match=r"Expected len\(state_dicts\)=1 >= 2"):
        importer.import_ensemble(given[:1], name)
    with pytest.raises(ValueError, match="Expected one file: parl_3x_resnet20 is an ensemble of 3"):
        importer.import_ensemble(given, "parl_3x_resnet20")
    wong = [state("preact_resnet18_wong2020", seed) for seed in range(2)]
    wong[1]["mu"] = wong[1]["mu"] / 2
    with pytest.raises(ValueError, match="Expected members to be normalised alike, not by"):
        importer.import_ensemble(wong, "preact_resnet18_wong2020")


def test_arrays_that_no_network_uses_are_left_out_by_name(capsys):
    name = "wrn28_10_carmon2019"
    given = state(name)
    twins = {f"sub_{key}": value for key, value in given.items() if key.startswith("block1.")}
    file = {f"module.{key}": value for key, value in (given | twins).items()}
    imported = importer.import_state_dict(file, name)
    assert f": {len(twins) - 2} arrays sub_block1.*" in capsys.readouterr().out  # counts apart
    check_same(exported(imported, name)[0], given)
    with pytest.raises(ValueError, match=r"unknown: sub_block2\.layer\.0\.bn1\.bias\.$"):
        importer.import_state_dict(file | {"sub_block2.layer.0.bn1.bias": given["bn1.bias"]}, name)
    # Of another layout they are unknown, as everything else is.
    wong = state("preact_resnet18_wong2020") | {"sub_block1.a": given["bn1.bias"]}
    with pytest.raises(ValueError, match=r"unknown: sub_block1\."):
        importer.import_state_dict(wong, "preact_resnet18_wong2020")


def test_a_normalisation_in_the_file_is_the_networks():
    name = "preact_resnet18_wong2020"
    given, half = state(name), Normalization((0.5,) * 3, (0.25,) * 3)
    named = design_of(name).normalization
    without = {key: value for key, value in given.items() if key not in ("mu", "sigma")}
    assert importer.import_state_dict(given, name)[1] == named
    assert importer.import_state_dict(without, name)[1] == named
    assert importer.import_state_dict(without, name, half)[1] == half
    own = {"mu": np.full((1, 3, 1, 1), 0.5, np.float32), "sigma": np.full((3, 1, 1), 0.25)}
    assert importer.import_state_dict(given | own, name)[1] == half
    other = {f"model.{key}": value for key, value in without.items()}
    other |= {"normalize.mean": own["mu"], "normalize.std": own["sigma"]}
    assert importer.import_state_dict(other, name)[1] == half
    with pytest.raises(
        ValueError, match=r"mean=\(0\.5, 0\.5, 0\.5\) .* those in the file, \(0\.49"
    ):
        importer.import_state_dict(given, name, half)
    with pytest.raises(ValueError, match="Expected mu and sigma to be 3 numbers each"):
        importer.import_state_dict(given | {"mu": np.zeros(1)}, name)


def test_what_another_network_has_learnt_is_not_exported():
    name = "preact_resnet18_wong2020"
    network, normalization, variables = importer.import_state_dict(state(name), name)
    assert normalization is not None
    relu = dataclasses.replace(network, activation="silu")
    with pytest.raises(ValueError, match=r"wong2020's: activation='silu' in place of 'relu'\."):
        export.export_state_dicts(relu, normalization, variables, name)
    learnt = Normalization(statistics="train_channel")
    unknown = {kind: arrays for kind, arrays in variables.items() if kind != "constants"}
    with pytest.raises(ValueError, match=r"Expected normalization=.* to be numbers that are given"):
        export.export_state_dicts(network, learnt, unknown, name)
    per_pixel = variables | {"constants": {"mean": np.zeros((32, 32, 3)), "std": np.ones(3)}}
    with pytest.raises(ValueError, match=r"mean of shape \(32, 32, 3\) to be numbers per channel"):
        export.export_state_dicts(network, learnt, per_pixel, name)
    del variables["params"]["backbone"]["linear"]["bias"]
    with pytest.raises(ValueError, match=r"params/backbone/linear/bias of shape \(10,\), not None"):
        export.export_state_dicts(network, normalization, variables, name)
    with pytest.raises(ValueError, match="Expected architecture='wong' to be one of"):
        export.export_state_dicts(network, normalization, variables, "wong")


def test_the_numbers_that_a_network_goes_on_with_are_exported():
    """Those of the checkpoint that it started from, not those that its configuration says."""
    name = "preact_resnet18_wong2020"
    network, _, variables = importer.import_state_dict(state(name), name)
    own = {"mean": np.array([0.5, 0.4, 0.3], np.float32), "std": np.full(3, 0.25, np.float32)}
    for said in (Normalization((0.1,) * 3, (1.0,) * 3), Normalization()):
        (file,) = export.export_state_dicts(network, said, variables | {"constants": own}, name)
        np.testing.assert_array_equal(file["mu"].reshape(-1), own["mean"])
        np.testing.assert_array_equal(file["sigma"].reshape(-1), own["std"])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_commands_read_what_they_write(tmp_path, capsys, suffix, monkeypatch):
    if suffix == ".safetensors":
        monkeypatch.delattr(torch_file, "_torch")  # neither side needs it
    else:
        pytest.importorskip("torch", reason="needs the extra robust_jax[torch]")
    name, files = "preact_resnet18_rade2021", []
    for seed in range(3):
        files.append(tmp_path / f"net_m{seed}{suffix}")
        save_state_dict(state(name, seed), files[-1])

    def run(module, positional, *words):
        words = [*map(str, words), "--architecture", name]
        module.main(command_line.parse(module.Arguments, args=words, positional=positional))

    run(importer, "files", *files, "--out", tmp_path / "run")
    checkpoint = checkpoints.load(tmp_path / "run", sharding.make_mesh(1))
    assert checkpoint.config.method.vote == "mean_probability"
    assert checkpoint.config.name == "net_m0"
    run(export, "directory", tmp_path / "run", "--out", tmp_path / "out" / f"net{suffix}")
    printed = capsys.readouterr().out
    assert "normalised by mean (0.4914, 0.4822, 0.4465)" in printed
    assert "Members decide by mean_probability, which stands in no file." in printed
    for seed, file in enumerate(files):
        written = load_state_dict(tmp_path / "out" / file.name)
        check_same(written, state(name, seed))
    with pytest.raises(ValueError, match=r"net_m0.* not to exist yet"):
        run(export, "directory", tmp_path / "run", "--out", tmp_path / "out" / f"net{suffix}")
    with pytest.raises(ValueError, match=r"Expected files=\(\) to name a checkpoint"):
        importer.main(importer.Arguments((), name, tmp_path / "none"))


@pytest.mark.slow
def test_a_network_that_a_method_changes_is_not_exported(tmp_path):
    name = "preact_resnet18_wong2020"
    importer.main(_written(tmp_path, name))
    checkpoint = checkpoints.load(tmp_path / "run", sharding.make_mesh(1))
    method = checkpoint.config.method
    noisy = dataclasses.replace(method, input_sigma=0.1, input_noise_in_prediction=True)
    for name_of, each in (
        ("noisy", noisy),
        ("trained", dataclasses.replace(method, input_sigma=0.1)),
    ):
        config = dataclasses.replace(checkpoint.config, method=each)
        folder = tmp_path / name_of
        checkpoints.save_model(folder, checkpoint.variables, config=config, task=checkpoint.task)
    export.main(export.Arguments(tmp_path / "trained", name, tmp_path / "trained.safetensors"))
    arguments = export.Arguments(tmp_path / "noisy", name, tmp_path / "noisy.safetensors")
    with pytest.raises(ValueError, match="Expected method=Standard to decide by a plain network"):
        export.main(arguments)
    assert not arguments.out.exists()


def _written(folder, name):
    save_state_dict(state(name), folder / "net.safetensors")
    return importer.Arguments((folder / "net.safetensors",), name, folder / "run")


def test_wrong_safetensors(tmp_path):
    file = tmp_path / "net.safetensors"
    with pytest.raises(ValueError, match="to exist"):
        load_state_dict(file)
    file.write_bytes(b"no header, and no arrays")
    with pytest.raises(ValueError, match=r"to be a safetensors file of plain arrays and whole \("):
        load_state_dict(file)
    file.unlink()
    name = "preact_resnet18_wong2020"
    save_state_dict(state(name), file)
    with pytest.raises(ValueError, match=r"Expected entry='last' to be None"):
        load_state_dict(file, "last")
    file.unlink()
    narrow = {key: np.asarray(value, jax.numpy.bfloat16) for key, value in state(name).items()}
    save_state_dict(narrow, file)
    read = load_state_dict(file)
    assert read["linear.bias"].dtype == np.float32
    np.testing.assert_array_equal(read["linear.bias"], narrow["linear.bias"].astype(np.float32))
