"""What a run starts from: another run's arrays, its backbone, several runs' as members."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from robust_jax import experiment
from robust_jax.data import NPZ, DataConfig, open_data
from robust_jax.experiment import checkpoints
from robust_jax.methods import KAP, PARL, BatchEnsemble, RandomLayerSampling, Standard
from robust_jax.models import CNNConfig, EnsembleConfig, Normalization
from robust_jax.runtime import sharding
from robust_jax.training import TrainingConfig
from tests.small import NETWORK, config

MESH = sharding.make_mesh(1)
NAMES = ("a", "b", "c")
NORMALIZED = Normalization((0.5,), (0.25,))
METHOD = Standard(network=NETWORK, normalization=NORMALIZED)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A function of names: work directories of three networks as if they were trained."""
    root, cfg = tmp_path_factory.mktemp("networks"), config(METHOD)
    data = open_data(cfg.data)
    init = jax.jit(lambda key: METHOD.make(data.task).init(key=key))
    for seed, name in enumerate(NAMES):
        variables = init(jax.random.key(seed))
        statistics = jax.tree.map(
            lambda leaf, by=seed + 1: leaf - 0.1 * by, variables["batch_stats"]
        )
        variables = {**variables, "batch_stats": statistics}
        checkpoints.save_model(root / name, variables, config=cfg, task=data.task)
    return lambda *names: tuple(str(root / name) for name in names)


@pytest.fixture(scope="module")
def data():
    return open_data(config().data)


def started(method, data, init_from, **training):
    cfg = config(method, init_from=init_from, **training)
    return experiment.init_variables(cfg, data, cfg.method.make(data.task), MESH)


def logits(variables, data, images):
    return METHOD.make(data.task).predict(variables, images)


@pytest.mark.slow
def test_another_run_s_arrays(places, data, capsys):
    """Kernel pooling over a plain network's arrays is to be trained on, and a line says so."""
    (name,) = places("a")
    found = started(METHOD, data, name)
    chex.assert_trees_all_equal(found, checkpoints.load(name, MESH).variables)
    with pytest.raises(ValueError, match="another architecture"):
        started(Standard(), data, name)
    other = Standard(network=NETWORK, normalization=Normalization((0.1,), (0.25,)))
    assert "Warning" not in capsys.readouterr().out
    started(other, data, name)
    assert "images are normalised by its numbers" in capsys.readouterr().out
    pooled = KAP(network=NETWORK, normalization=NORMALIZED)
    assert "Warning" not in capsys.readouterr().out
    started(pooled, data, name)
    assert "Expected KAP to make the same network of the arrays as" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"init_from='.*/a' to fit: .* differ by"):
        started(pooled, data, name, phases=())


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        Standard(network=EnsembleConfig(NETWORK, 3), normalization=NORMALIZED, vote="mean_logit"),
        RandomLayerSampling(network=NETWORK, num_choices=3, normalization=NORMALIZED),
    ],
    ids=["ensemble", "rls"],
)
def test_members_are_the_networks(places, data, method, capsys):
    """Member i decides as the i-th network does, twice the same one where it is named twice."""
    names = places("a", "c", "a")
    variables = started(method, data, names)
    images = jax.random.uniform(jax.random.key(0), (5, *data.task.input_shape))
    made = method.make(data.task)
    found = jax.jit(lambda v, x: made.view("members")(v, x, key=jax.random.key(0)))(
        variables, images
    )
    for number, name in enumerate(names):
        alone = checkpoints.load(name, MESH).variables
        # One network's convolutions, alone and in a loop: float32 of logits of up to ten.
        np.testing.assert_allclose(found[number], logits(alone, data, images), atol=1e-5)
    assert not np.allclose(found[0], found[1])
    assert "Warning" not in capsys.readouterr().out


@pytest.mark.slow
def test_several_are_held_against_the_method(places, data, tmp_path):
    ensemble = Standard(network=EnsembleConfig(NETWORK, 3), normalization=NORMALIZED)
    other = dataclasses.replace(NETWORK, widths=(8,))

    def refused(message, method, names=places(*NAMES)):
        with pytest.raises(ValueError, match=message) as error:
            started(method, data, names)
        assert "\n" not in str(error.value)

    refused("of 2 checkpoints to be num_members=3", ensemble, places("a", "b"))
    refused(
        "of 3 checkpoints to be num_choices=2",
        RandomLayerSampling(network=NETWORK, normalization=NORMALIZED),
    )
    refused("not with Standard of CNNConfig", METHOD)
    refused("not with BatchEnsemble of CNN", BatchEnsemble(network=NETWORK, num_members=3))
    refused(
        r"init_from '.*/a'.*norm1.*\(16,\) to have shape \(8,\) \(another architecture",
        dataclasses.replace(ensemble, network=EnsembleConfig(other, 3)),
    )
    # Another normalisation has the same arrays, other numbers in them.
    cfg = config(dataclasses.replace(METHOD, normalization=Normalization((0.1,), (0.25,))))
    variables = cfg.method.make(data.task).init(key=jax.random.key(0))
    checkpoints.save_model(tmp_path, variables, config=cfg, task=data.task)
    names = (*places("a", "b"), str(tmp_path))
    refused(f"init_from='{tmp_path}' to normalise images by the numbers of '.*/a'", ensemble, names)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Other images, of three classes."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "data.npz"
    images, labels = rng.integers(0, 256, (30, 8, 8, 1), np.uint8), np.arange(30) % 3
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return open_data(DataConfig(NPZ(str(file), num_classes=3)))


def test_a_backbone_under_another_head(places, three, capsys):
    """Three classes, another normalisation: the rest is what it was."""
    method = Standard(network=NETWORK, normalization=Normalization(statistics="train_channel"))
    found = started(method, three, places("b")[0], init_part="backbone")
    said = capsys.readouterr().out
    source, fresh = checkpoints.load(places("b")[0], MESH).variables, started(method, three, None)
    chex.assert_trees_all_equal(found["batch_stats"], source["batch_stats"])
    for name, layer in found["params"]["backbone"].items():
        origin = fresh if name == "linear" else source
        chex.assert_trees_all_equal(layer, origin["params"]["backbone"][name])
    assert found["params"]["backbone"]["linear"]["kernel"].shape[-1] == 3
    np.testing.assert_allclose(found["constants"]["mean"], three.statistics.channel_mean)
    (line,) = (line for line in said.splitlines() if "backbone" in line)
    assert line.endswith("not taken: the last linear layer of 10 classes, the normalisation.")
    assert "Warning" not in said


@pytest.mark.slow
def test_members_of_other_methods(places, data):
    pooled = KAP(network=EnsembleConfig(NETWORK, 3), normalization=NORMALIZED)
    with pytest.raises(ValueError, match=r"/a' to fit: .* differ by"):
        started(pooled, data, places(*NAMES), phases=())
    parl = PARL(network=pooled.network, normalization=NORMALIZED)
    found = started(parl, data, places(*NAMES), phases=())
    kernel = checkpoints.load(places("b")[0], MESH).variables["params"]["backbone"]["conv1"][
        "kernel"
    ]
    stacked = found["params"]["backbone"]["member"]["conv1"]["kernel"]
    np.testing.assert_array_equal(stacked[1], kernel)


@pytest.mark.slow
def test_backbones_of_members_and_of_another_network(places, three, capsys):
    members = Standard(network=EnsembleConfig(NETWORK, 2), normalization=NORMALIZED)
    both = started(members, three, places("b", "a"), init_part="backbone")["params"]["backbone"]
    for number, name in enumerate("ba"):
        alone = checkpoints.load(places(name)[0], MESH).variables["params"]["backbone"]
        kernel = both["member"]["conv1"]["kernel"][number]
        np.testing.assert_array_equal(kernel, alone["conv1"]["kernel"])
    assert both["member"]["linear"]["bias"].shape == (2, 3)
    wider = Standard(network=CNNConfig((8,), (2,)))
    with pytest.raises(ValueError, match="another architecture"):
        started(wider, three, places("b")[0], init_part="backbone")
    assert "Warning" not in capsys.readouterr().out
    pooled = KAP(network=NETWORK, normalization=NORMALIZED)
    started(pooled, three, places("b")[0], init_part="backbone")
    assert "Warning: init_from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_from": ()}, r"init_from=\(\) to name checkpoints"),
        ({"init_part": "backbone"}, "init_part='backbone' with init_from"),
        ({"init_part": "backbone", "init_from": "a", "phases": ()}, "phases that train a head"),
    ],
)
def test_bad_input(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**fields)
