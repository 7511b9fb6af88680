"""One step of training, attack and evaluation at the papers' networks and image sizes.

From JPEG files, through train.py; REGroup, which is not trained, fits, attacks and predicts.
"""

import dataclasses
import importlib
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import PGD, ThreatModel, bind
from robust_jax.data import TFDS, Folder
from robust_jax.evaluation import records
from robust_jax.evaluation.protocol import Judge, Selection
from robust_jax.experiment import config
from robust_jax.methods import RandomLayerSampling, REGroup
from robust_jax.models import ResNetConfig, imagenet_vgg
from robust_jax.runtime.compilation import jitted
from robust_jax.types import Batch, Task

NUM_CLASSES = {"cifar10": 10, "tiny_imagenet": 200, "imagenet": 1000}


def _data_helpers(repository):
    """Returns the helpers of tests/data that write images and TFDS datasets."""
    path = repository / "tests" / "data" / "conftest.py"
    spec = importlib.util.spec_from_file_location("data_helpers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def jpeg_sources(tmp_path_factory, repository):
    """By dataset a source of JPEG files: six to train on, of as many classes, two to test on."""
    helpers = _data_helpers(repository)
    root = tmp_path_factory.mktemp("jpeg")

    def jpeg(seed, height, width):
        return helpers.encode(helpers.picture(seed, height, width), "JPEG")

    small = [(jpeg(i, 32, 32), i) for i in range(8)]
    helpers.write_tfds(
        root, "cifar10", "3.0.2", {"train": small[:6], "test": small[6:]}, 10, (32, 32, 3)
    )
    large = [(jpeg(i, 250 + 31 * i, 400 - 23 * i), 111 * i) for i in range(8)]
    splits = {"train": large[:6], "validation": large[6:]}
    helpers.write_tfds(root, "imagenet2012", "5.1.0", splits, 1000, (None, None, 3))

    tiny = root / "tiny-imagenet-200"
    wnids = [f"n{number:08d}" for number in range(200)]
    annotations = []
    for number, wnid in enumerate(wnids):
        folder = tiny / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder / f"{wnid}_0.JPEG").write_bytes(jpeg(number, 64, 64))
    (tiny / "val" / "images").mkdir(parents=True)
    for number in range(2):
        (tiny / "val" / "images" / f"val_{number}.JPEG").write_bytes(jpeg(number, 64, 64))
        annotations.append(f"val_{number}.JPEG\t{wnids[number]}\t0\t0\t62\t62\n")
    (tiny / "val" / "val_annotations.txt").write_text("".join(annotations))
    (tiny / "wnids.txt").write_text("\n".join(wnids))
    return {
        "cifar10": TFDS("cifar10", str(root)),
        "tiny_imagenet": Folder(str(tiny)),
        "imagenet": TFDS("imagenet2012", str(root)),
    }


PAIRS = (
    "standard_tiny_imagenet", "lpd_cifar10", "kap_cifar10", "kap_tiny_imagenet", "kap_imagenet",
    "standard_cifar10", "standard_imagenet", "lpd_tiny_imagenet", "rls_cifar10:vgg16",
    "parl_cifar10",
)  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize("name", PAIRS)
def test_one_step_at_the_papers_size(name, repository, jpeg_sources, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(repository)
    train = importlib.import_module("robust_jax.commands.train")
    file, _, variant = name.partition(":")
    dataset = file.split("_", 1)[1]
    found = config.load(str(repository / "configs" / f"{file}.py:{variant or 'default'}"))
    attack = next(r for r in found.evaluation.attacks.values() if isinstance(r.attack, PGD))
    short = dataclasses.replace(attack.attack, num_steps=1, num_restarts=1)
    attack = dataclasses.replace(attack, attack=short)
    phase = dataclasses.replace(found.training.phases[0], batch_size=2)
    if isinstance(found.method, RandomLayerSampling):  # ten draws a prediction take their time
        found = dataclasses.replace(found, method=dataclasses.replace(found.method, num_draws=1))
    found = dataclasses.replace(
        found,
        data=dataclasses.replace(found.data, source=jpeg_sources[dataset], validation_size=0),
        training=dataclasses.replace(found.training, phases=(phase,), max_steps=1),
        evaluation=dataclasses.replace(
            found.evaluation,
            attacks={"pgd": attack},
            printed=None,
            batch_size=2,
            judges={"one draw": Judge(num_draws=1)},
            measures={},
            sanity=False,
            selection=Selection(),
            adversary=dataclasses.replace(found.evaluation.adversary, skip_misclassified=False),
        ),
        runtime=dataclasses.replace(found.runtime, num_devices=1, progress=False),
    )
    # optax's Adam raises a float to an integer power, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        train.main(train.Arguments(found, workdir=tmp_path))

    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line["step"] == 1
    # At first all classes are about equally likely.
    loss = line["cross_entropy"] / 3 if file.startswith("parl") else line["loss"]
    assert 0.5 * math.log(NUM_CLASSES[dataset]) < loss < 2.5 * math.log(NUM_CLASSES[dataset])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["num_examples"] == 2
    assert summary["robust_accuracy"].keys() == {"pgd"}
    found = records.read_records(tmp_path)
    assert set(found["clean"]) == {0, 1}
    for record in found["pgd"].values():
        assert 0 < record.linf <= attack.attack.threat.eps * (1 + 1e-5)


@pytest.mark.nightly
@pytest.mark.usefixtures("quick_programs")
@pytest.mark.parametrize(
    ("network", "num_layers"),
    [
        (imagenet_vgg(19, norm=False), 19),
        (ResNetConfig(50, stem="imagenet"), 54),
    ],
)
def test_regroup_fits_attacks_and_predicts(network, num_layers):
    task = Task((224, 224, 3), 3, 3)
    method = REGroup(network=network).make(task)
    images = jax.random.uniform(jax.random.key(0), (3, 224, 224, 3))
    variables = jitted(lambda key: method.init(key=key))(jax.random.key(1))
    taps = jax.eval_shape(lambda v: method.taps(v, images, key=None), variables)
    assert len([name for name in taps if "pre_act" not in name]) == num_layers
    # The head is replaced so that the images are of three classes, and all are right.
    surrogate = jax.jit(lambda variables: method.views["surrogate"](variables, images, key=None))
    backbone = variables["params"]["backbone"]
    head = max(backbone, key=lambda name: name.startswith("linear"))
    logits = np.asarray(surrogate(variables))
    mixed, *_ = np.linalg.lstsq(logits - logits.mean(0), 9 * np.eye(3) - 3, rcond=None)
    kernel, bias = backbone[head]["kernel"] @ mixed, backbone[head]["bias"] @ mixed
    backbone[head] = {"kernel": kernel, "bias": bias - logits.mean(0) @ mixed}
    labels = jnp.argmax(surrogate(variables), axis=-1)
    assert len(set(labels.tolist())) == 3
    batch = Batch(images, labels, jnp.ones(3, bool), jnp.arange(3))
    fitted = method.fit(variables, [batch], key=None)
    assert {len(layers) for layers in fitted["fitted"].values()} == {5}
    attack = PGD(ThreatModel("linf", 4 / 255), num_steps=1, loss="margin")
    view = bind(method.views["deployed"], fitted)
    attacked = attack(view, images, labels, key=jax.random.key(2))
    counts = jax.jit(method.predict)(fitted, attacked)
    # Each of the ten voters gives 2, 1 and 0 points.
    np.testing.assert_array_equal(jnp.sum(counts, axis=-1), [30, 30, 30])
