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

from robust_jax import evaluation, serialization, training
from robust_jax.attacks import MORA
from robust_jax.certify import Margins
from robust_jax.evaluation import dry_run
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.experiment import config
from robust_jax.experiment.config import Config
from robust_jax.methods import (
    KAP,
    MethodConfig,
    RandomLayerSampling,
    RandomSelfEnsemble,
    REGroup,
    Standard,
)
from robust_jax.runtime.sharding import make_mesh
from robust_jax.training.plan import make_plan
from robust_jax.types import Batch, Task
from tests.configurations import (
    CONFIGS,
    EVALUATIONS,
    REPOSITORY,
    TASKS,
    files,
    identify,
    load,
    load_evaluation,
    parametrize,
    task_of,
)


@pytest.mark.quick_one_in(4)
@parametrize("spec", CONFIGS)
def test_config_comes_back_from_json(spec):
    found = load(spec)
    written = json.loads(json.dumps(serialization.to_json(found)))
    assert serialization.from_json(Config, written) == found
    file, variant = identify(spec).split(":")
    assert found.name == (file if variant == "default" else f"{file}-{variant}")
    asked = found.evaluation
    dry_run.check_names(asked.attacks, asked.certificates, asked.sources)


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


@pytest.mark.quick_one_in(4)
@parametrize("spec", EVALUATIONS)
def test_evaluation_comes_back_from_json(spec):
    found = load_evaluation(spec)
    written = json.loads(json.dumps(serialization.to_json(found)))
    assert serialization.from_json(Evaluation, written) == found
    dry_run.check_names(found.attacks, found.certificates, found.sources)


@pytest.mark.slow
def test_mora_attacks_what_decides():
    """Of every configuration; one of another vote would leave too much standing."""
    seen = set()
    for spec in CONFIGS:
        found = load(spec)
        for run in found.evaluation.attacks.values():
            if isinstance(run.attack, MORA) and run.source is None:
                by = MORA.of_vote(run.attack.threat, found.method.vote)
                assert (run.attack.rule, run.attack.ties) == (by.rule, by.ties), identify(spec)
                seen.add(found.method.vote)
    assert seen == {"mean_probability", "majority_mean_probability"}


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
            "prediction": {"num_draws": 1},  # the number of turns of a loop
        }
        off = {name: value for stage in where for name, value in alone[stage].items()}
    elif isinstance(method, KAP):
        off = {f"{kind}_in_{stage}": False for stage in where for kind in ("noise", "input_noise")}
    else:
        off = {}
    return dataclasses.replace(method, **off)


def _when_traced(spec) -> pytest.MarkDecorator:
    """Of a file's variants, which are much alike, the first alone is slow: each takes a second."""
    file, variant = identify(spec).split(":")
    first = variant == "default" and file not in ("rls_svhn", "rls_mnist")
    return pytest.mark.slow if first else pytest.mark.nightly


# Traces the papers' networks; every variant is constructed by the quick tests.
@parametrize("spec", [pytest.param(spec, marks=_when_traced(spec)) for spec in CONFIGS])
def test_method_is_built(spec):
    found, task = load(spec), task_of(spec)
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


@pytest.mark.quick_one_in(4)
@parametrize("spec", CONFIGS)
def test_training_and_evaluation_are_built(spec):
    found, task = load(spec), task_of(spec)
    method, mesh = found.method.make(task), make_mesh(4)
    plan = make_plan(found.training, task.num_train, mesh)
    optimizer = found.optimizer.make(plan.step_at, plan.epochs[-1])
    training.make_train_step(method, optimizer, found.training, found.data.augmentation, mesh)
    sources = dict.fromkeys(found.evaluation.sources, method)
    evaluation.make_evaluator(method, found.evaluation, mesh, sources)
    assert found.evaluation.attacks
    # A best checkpoint is chosen, on examples carved from the training split.
    assert found.data.validation_size > 0
    in_loss = any(term.views for term in found.method.all_terms)  # TRADES, MART
    attacked = found.training.adversarial is not None or in_loss
    assert found.training.best_by == ("robust_accuracy" if attacked else "accuracy")


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize("method", [Standard(), KAP()], ids=["standard", "kap"])
@parametrize("spec", EVALUATIONS)
def test_evaluation_is_built(spec, method):
    # Evaluations of views that one method alone has.
    own = {"regroup": REGroup(), "rls": RandomLayerSampling()}
    method = own.get(pathlib.Path(spec.split(".py")[0]).name, method)
    if spec.endswith("one_draw"):
        method = RandomSelfEnsemble()
    method, wanted = method.make(TASKS["cifar10"]), load_evaluation(spec)
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


@pytest.mark.slow
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


@pytest.mark.parametrize("name", [path.name for path in files("configs/eval")])
def test_an_evaluation_finds_its_helpers_alone(name, monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, module)
    assert config.load_evaluation(str(REPOSITORY / "configs" / "eval" / name))


def test_variants_are_written_out():
    """Whoever searches for a variant's name finds the file that has it."""
    for spec in CONFIGS + EVALUATIONS:
        path, variant = spec.split(".py:")
        words = re.split(r"[^\w.]+", pathlib.Path(f"{path}.py").read_text())
        assert variant in {word.removesuffix(".") for word in words}, spec
