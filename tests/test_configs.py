"""Every configuration: it loads, comes back from JSON, and builds its method and attacks."""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import config, evaluation, serialization, training
from robust_jax.certify import Margins
from robust_jax.config import Config
from robust_jax.methods import (
    KAP,
    MART,
    TRADES,
    MethodConfig,
    RandomLayerSampling,
    RandomSelfEnsemble,
    REGroup,
    Standard,
)
from robust_jax.models import Normalization
from robust_jax.plan import make_plan
from robust_jax.protocol import Evaluation
from robust_jax.sharding import make_mesh
from robust_jax.types import Batch, Task

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

TASKS = {
    "quickstart": Task((8, 8, 1), 10, 1_237),
    "digits": Task((8, 8, 1), 10, 1_237),
    "cifar10": Task((32, 32, 3), 10, 49_000),
    "cifar100": Task((32, 32, 3), 100, 49_000),
    "tiny_imagenet": Task((128, 128, 3), 200, 98_000),
    "imagenet": Task((224, 224, 3), 1000, 1_271_167),
    "mnist": Task((32, 32, 1), 10, 59_000),
    "svhn": Task((32, 32, 3), 10, 72_257),
}


def specs(folder: pathlib.Path) -> list[str]:
    """Returns `path.py:variant` of every variant of every file of a folder."""
    found = []
    for file in sorted(folder.glob("*.py")):
        module, _ = config.load_module(str(file))
        found += [f"{file}:{variant}" for variant in module.VARIANTS]
    return found


CONFIGS = specs(REPOSITORY / "configs")
EVALUATIONS = specs(REPOSITORY / "configs" / "eval")


def identify(spec: str) -> str:
    """Returns `file:variant`."""
    return pathlib.Path(spec).name.replace(".py:", ":")


def task_of(spec: str) -> Task:
    """Returns the task of the dataset that the file is named after, `method_dataset.py`."""
    name = pathlib.Path(spec).name.split(".py:")[0]
    while name not in TASKS:
        name = name.split("_", 1)[1]
    task = TASKS[name]
    size = load(spec).data.image_size or task.input_shape[0]
    return task._replace(input_shape=(size, size, task.input_shape[2]))


def load(name: str) -> Config:
    """Returns the configuration `file.py:variant` of configs/."""
    return config.load(str(REPOSITORY / "configs" / name))


def parametrize(name, values):
    return pytest.mark.parametrize(name, values, ids=identify)


@parametrize("spec", CONFIGS)
def test_config_comes_back_from_json(spec):
    found = config.load(spec)
    written = json.loads(json.dumps(serialization.to_json(found)))
    assert serialization.from_json(Config, written) == found
    file, variant = identify(spec).split(":")
    assert found.name == (file if variant == "default" else f"{file}-{variant}")


def test_readme_lists_every_variant():
    """The rows of configs/README.md: `file.py`, or a blank for the file above, then variants."""
    lines = (REPOSITORY / "configs" / "README.md").read_text().splitlines()
    listed, files = set(), []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[1] not in ("variant", "---"):
            files = re.findall(r"`(\w+)\.py`", cells[0]) or files
            listed |= {f"{f}:{v}" for f in files for v in re.findall(r"[\w.]+", cells[1])}
    # Table A6 has one row for its 32 variants, which have a test of their own.
    grid = re.compile("kap_cifar10:a6_")
    found = {identify(spec) for spec in CONFIGS}
    assert {n for n in listed if not grid.match(n)} == {n for n in found if not grid.match(n)}


@parametrize("spec", EVALUATIONS)
def test_evaluation_comes_back_from_json(spec):
    found = config.load_evaluation(spec)
    written = json.loads(json.dumps(serialization.to_json(found)))
    assert serialization.from_json(Evaluation, written) == found


@functools.cache
def variable_shapes(method: MethodConfig, task: Task):
    return jax.eval_shape(method.make(task).init, key=jax.random.key(0))


@functools.cache
def loss_shapes(method: MethodConfig, task: Task, image_size: int):
    images = jnp.zeros((2, image_size, image_size, task.input_shape[2]))
    label = jnp.zeros(2, jnp.int32)
    batch = Batch(images, label, jnp.ones(2, bool), label)
    return jax.eval_shape(
        method.make(task).loss, variable_shapes(method, task), batch, key=jax.random.key(1), step=0
    )


@functools.cache
def score_shapes(method: MethodConfig, task: Task):
    images = jnp.zeros((2, *task.input_shape))
    return jax.eval_shape(
        method.make(task).predict, variable_shapes(method, task), images, key=jax.random.key(2)
    )


def without_noise(method: MethodConfig, *where: str) -> MethodConfig:
    """Returns the method without what matters to its loss ("training") or its prediction alone.

    Many variants differ in nothing else, so that what does not depend on it is traced once.
    """
    if isinstance(method, RandomLayerSampling):
        alone = {
            "training": {"loss": "cross_entropy_of_mean", "statistics": "training"},
            "prediction": {"num_draws": 1},
        }
        off = {name: value for stage in where for name, value in alone[stage].items()}
    elif isinstance(method, KAP):
        off = {f"{kind}_in_{stage}": False for stage in where for kind in ("noise", "input_noise")}
    else:
        off = {}
    return dataclasses.replace(method, **off)


@parametrize("spec", CONFIGS)
def test_method_is_built(spec):
    found, task = config.load(spec), task_of(spec)
    method = found.method
    variables = variable_shapes(without_noise(method, "training", "prediction"), task)
    backbone = variables["params"]["backbone"]
    linear = backbone.get("member", backbone)["linear"]
    assert linear["kernel"].shape[-1] == task.num_classes

    # Fast-AT's last phase trains on larger images than those that the variables are made for.
    sizes = [phase.image_size for phase in found.training.phases[-1:]]
    size = next(iter(sizes), None) or task.input_shape[0]
    value, (moved, metrics) = loss_shapes(without_noise(method, "prediction"), task, size)
    assert (value.shape, value.dtype) == ((), jnp.float32)
    assert metrics["accuracy"].shape == ()
    same = jax.tree.map(
        lambda a, b: a.shape == b.shape,
        moved.get("batch_stats", {}),
        variables.get("batch_stats", {}),
    )
    assert all(jax.tree.leaves(same))

    if method.make(task).fit is not None and not found.training.phases:
        return  # predicts after its fit only
    scores = score_shapes(without_noise(method, "training"), task)
    assert (scores.shape, scores.dtype) == ((2, task.num_classes), jnp.float32)


@parametrize("spec", CONFIGS)
def test_training_and_evaluation_are_built(spec):
    found, task = config.load(spec), task_of(spec)
    method, mesh = found.method.make(task), make_mesh(4)
    plan = make_plan(found.training, task.num_train, mesh)
    optimizer = found.optimizer.make(plan.step_at, plan.epochs[-1])
    training.make_train_step(method, optimizer, found.training, found.data.augmentation, mesh)
    evaluation.make_evaluator(method, found.evaluation, mesh)
    assert found.evaluation.attacks
    # A best checkpoint is chosen, on examples carved from the training split.
    assert found.data.validation_size > 0
    attacked = found.training.adversarial is not None or isinstance(found.method, TRADES | MART)
    assert found.training.best_by == ("robust_accuracy" if attacked else "accuracy")


@pytest.mark.parametrize("method", [Standard(), KAP()], ids=["standard", "kap"])
@parametrize("spec", EVALUATIONS)
def test_evaluation_is_built(spec, method):
    # Evaluations of views that one method alone has.
    own = {"regroup": REGroup(), "rls": RandomLayerSampling()}
    method = own.get(pathlib.Path(spec.split(".py")[0]).name, method)
    if spec.endswith("one_draw"):
        method = RandomSelfEnsemble()
    method, wanted = method.make(TASKS["cifar10"]), config.load_evaluation(spec)
    sources = dict.fromkeys(wanted.sources, method)
    margins = any(isinstance(found, Margins) for found in wanted.certificates.values())
    refused = method.stochastic and margins
    with pytest.raises(ValueError, match="randomness") if refused else contextlib.nullcontext():
        evaluation.make_evaluator(method, wanted, make_mesh(4), sources)


def test_another_method_on_the_command_line_is_another_name():
    default = load("kap_cifar10.py")
    louder = dataclasses.replace(default, method=dataclasses.replace(default.method, sigma=0.3))
    assert config.renamed(louder, default).name == "kap_cifar10-changed"
    mine = dataclasses.replace(louder, name="mine")
    longer = dataclasses.replace(default, seed=3)
    assert [config.renamed(c, default).name for c in (default, mine, longer)] == [
        "kap_cifar10", "mine", "kap_cifar10",
    ]  # fmt: skip


def num_parameters(name: str) -> int:
    method = without_noise(load(name).method, "training", "prediction")
    leaves = jax.tree.leaves(variable_shapes(method, task_of(name))["params"])
    return sum(math.prod(leaf.shape) for leaf in leaves)


def test_networks_are_the_papers():
    # The common CIFAR ResNet-18 without convolution biases has 11,173,962 parameters; the linear
    # layer of 100 classes adds 90 * 513. Kernel pooling has none.
    assert num_parameters("standard_cifar10.py:default") == 11_173_962
    assert num_parameters("standard_cifar100.py:default") == 11_173_962 + 90 * 513
    assert num_parameters("kap_cifar10.py:default") == 11_173_962
    assert num_parameters("kap_cifar10.py:nt_sigma0.1") == 11_173_962
    # ImageNet: stem; per stage four 3 x 3 convolutions with two numbers a channel of BatchNorm,
    # from the second on a projection; linear. KAP has a second BatchNorm after each.
    widths = np.array((64, 144, 256, 529))
    for name, scale in (("default", 1), ("widex4", 4)):
        w = widths * scale
        kernels = 49 * 3 * w[0] + 9 * (w[0] ** 2 + 3 * (w**2).sum() + (w[:-1] * w[1:]).sum())
        kernels += (w[:-1] * w[1:]).sum()
        norms = 2 * (w[0] + 4 * w.sum() + w[1:].sum())
        plain = kernels + norms + (w[-1] + 1) * 1000
        assert num_parameters(f"standard_imagenet.py:{name}") == plain
        assert num_parameters(f"kap_imagenet.py:{name}") == plain + norms


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("kap_cifar10.py:default", {0: 0.1, 149.9: 0.1, 150.1: 0.01, 199.9: 0.01}),
        ("standard_cifar10.py:at", {0: 0.1, 99.9: 0.1, 100.1: 0.01, 150.1: 0.001}),
        ("kap_tiny_imagenet.py:default", {0: 0.1, 30.1: 0.01, 60.1: 0.001, 89.9: 0.001}),
        ("kap_imagenet.py:default", {0: 0.1, 40.1: 0.01, 80.1: 0.001, 99.9: 0.001}),
        ("standard_cifar10.py:fast_at", {0: 0.0, 7.5: 0.1, 15: 0.2, 22.5: 0.1, 30: 0.0}),
        ("standard_cifar10.py:free_at", {0: 0.0, 22: 0.02, 44: 0.04, 66: 0.02, 88: 0.0}),
        ("standard_cifar10.py:mart", {0: 0.01, 74.1: 0.001, 89.1: 1e-4, 99.1: 1e-5}),
        ("standard_imagenet.py:at", {0: 0.0, 0.5: 0.2, 1: 0.4, 6: 0.04, 12: 0.004, 15: 0.0004}),
    ],
)
def test_learning_rates(name, rates):
    found = load(name)
    plan = make_plan(found.training, task_of(name).num_train, make_mesh(1))
    rate = found.optimizer.rate(plan.step_at, plan.epochs[-1])
    for epoch, expected in rates.items():
        assert float(rate(plan.step_at(float(epoch)))) == pytest.approx(expected, rel=1e-3)


def test_table_a6_is_a_grid():
    cells = set()
    for training_noise in ("none", "input", "activation", "both"):
        for prediction_noise in ("none", "input", "activation", "both"):
            name = f"train_{training_noise}_eval_{prediction_noise}"
            kap = load(f"kap_cifar10.py:a6_{name}").method
            plain = load(f"kap_cifar10.py:a6_nt_{name}").method
            assert dataclasses.replace(kap, pool=None, sigma=0.1, input_sigma=0.1) == plain
            switches = (
                kap.input_noise_in_training, kap.noise_in_training,
                kap.input_noise_in_prediction, kap.noise_in_prediction,
            )  # fmt: skip
            on = ("both", "input"), ("both", "activation")
            assert switches == tuple(
                noise in where for noise in (training_noise, prediction_noise) for where in on
            )
            assert (kap.sigma, kap.input_sigma) == (0.2, 0.2)
            cells.add(switches)
    assert len(cells) == 16


def test_attacks_are_those_of_table_a3():
    for file, eps, step_size, rounded in (
        ("cifar10", 8 / 255, 2 / 255, 0.031),
        ("cifar100", 8 / 255, 2 / 255, 0.031),
        ("tiny_imagenet", 4 / 255, 2 / 255, 0.016),
        ("imagenet", 4 / 255, 1 / 255, 0.016),
    ):
        attacks = load(f"kap_{file}.py").evaluation.attacks
        assert {run.view for run in attacks.values()} == {"noise_off"}
        pgd = attacks["pgd20"].attack
        assert (pgd.num_steps, pgd.threat.eps, pgd.step_size) == (20, eps, step_size)
        assert attacks[f"pgd20_eps{rounded}"].attack.threat.eps == rounded
        # CIFAR and TinyImageNet are adversarially trained at the same sizes, ImageNet by Fast-AT.
        training_attack = load(f"standard_{file}.py:at").training.adversarial.attack
        num_steps = {"tiny_imagenet": 10, "imagenet": 1}.get(file, 20)
        assert (training_attack.num_steps, training_attack.threat.eps) == (num_steps, eps)
        assert training_attack.step_size == (5 / 255 if file == "imagenet" else step_size)
        assert training_attack.random_start


def test_images_are_not_normalised_in_kap():
    for spec in CONFIGS:
        method = config.load(spec).method
        if isinstance(method, KAP):
            assert method.normalization == Normalization()


def test_printed_numbers_are_those_of_the_docstrings():
    """Each stands in the docstring of the checkpoint's file, or of one that this names."""
    documented = functools.cache(
        lambda file: config.load_module(str(REPOSITORY / "configs" / file))[0]
    )
    found = [config.load_evaluation(spec).printed for spec in EVALUATIONS]
    found += [config.load(spec).evaluation.printed for spec in CONFIGS]
    tables = {repr(printed): printed for printed in found if printed is not None}
    assert len(tables) >= 17
    for printed in tables.values():
        for model, rows in printed.rows.items():
            if model in printed.cited:
                continue
            file, *variant = model.split("-")
            module = documented(file)
            assert not variant or variant[0] in module.VARIANTS
            text = module.__doc__
            for other in re.findall(r"`(\w+)\.py", text):
                if (REPOSITORY / "configs" / f"{other}.py").is_file():
                    text += documented(other).__doc__
            written = {float(number) for number in re.findall(r"\d*\.?\d+", text)}
            assert set(rows.values()) <= written, (model, set(rows.values()) - written)


@pytest.mark.parametrize("name", [path.name for path in (REPOSITORY / "configs/eval").glob("*.py")])
def test_an_evaluation_finds_its_helpers_alone(name, monkeypatch):
    for module in ("recipes", "recipes.printed", "recipes.rls"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert config.load_evaluation(str(REPOSITORY / "configs" / "eval" / name))
