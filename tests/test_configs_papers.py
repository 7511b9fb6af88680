"""What configurations have from their papers: learning rates, attacks, grids, printed numbers."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest

from robust_jax.attacks import AutoAttack
from robust_jax.evaluation.protocol import Printed, Selection
from robust_jax.experiment import config
from robust_jax.methods import KAP, LaplaceRates
from robust_jax.models import CNNConfig, EnsembleConfig, Normalization
from robust_jax.runtime.sharding import make_mesh
from robust_jax.training.plan import make_plan
from robust_jax.types import Batch, Task
from tests.configurations import (
    CONFIGS,
    EVALUATIONS,
    REPOSITORY,
    load,
    load_evaluation,
    task_of,
)


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


@pytest.mark.slow
def test_the_rows_of_lpds_paper_train_at_one_rate():
    """Without what sets them apart they have one loss, so one gradient under one optimizer."""
    network = EnsembleConfig(CNNConfig(widths=(4,), strides=(4,), norm=False), 5)
    alike = {
        "ensemble_cifar100.py:five": {},
        "lpd_cifar100.py:five": {"rates": LaplaceRates(alpha=1.0, beta=1.0, gamma=0.0)},
        "adp_cifar100.py:lpd_five": {"alpha": 0.0, "beta": 0.0},
    }
    task, label = Task((8, 8, 3), 10, 100), jnp.arange(4)
    batch = Batch(jax.random.uniform(jax.random.key(1), (4, 8, 8, 3)), label, label >= 0, label)
    losses, variables = {}, None
    for name, fields in alike.items():
        method = dataclasses.replace(load(name).method, network=network, **fields).make(task)
        variables = variables or jax.jit(lambda key, made=method: made.init(key=key))(
            jax.random.key(0)
        )
        loss = jax.jit(lambda v, made=method: made.loss(v, batch, key=jax.random.key(2), step=0)[0])
        losses[name] = float(loss(variables))
    assert losses == pytest.approx(dict.fromkeys(alike, losses["lpd_cifar100.py:five"]), rel=1e-5)

    plain = [
        *(f"ensemble_cifar10.py:{name}" for name in ("default", "width4", "resnet34")),
        *(f"ensemble_cifar100.py:{name}" for name in ("default", "five", "resnet34", "vgg16")),
        *(f"ensemble_cifar100.py:{name}" for name in ("at_fgsm", "at_pgd")),
        *(f"ensemble_tiny_imagenet.py:{name}" for name in ("default", "five")),
    ]
    assert {load(name).method.cross_entropy for name in plain} == {"mean"}
    assert len({load(name).optimizer for name in (*alike, *plain)}) == 1
    # PARL's loss is a sum, and so is that of its plain ensemble.
    assert load("ensemble_cifar100.py:resnet20").method.cross_entropy == "sum"


def test_attacks_are_those_of_lpds_and_regroups_tables():
    def attacks(name):
        found = load_evaluation(name)
        return {row: run.attack for row, run in found.attacks.items()}, found

    table5, found = attacks("lpd.py:table5")
    sizes = {
        source: sorted(a.threat.eps for n, a in table5.items() if n.endswith(source) and "pgd" in n)
        for source in ("oblivious", "adaptive")
    }
    assert sizes == {"oblivious": [0.02, 0.04], "adaptive": [0.01, 0.02]}
    # Three readings of JSMA, each beside the paper's number; two keep what a failed search changed.
    row = found.printed.rows["lpd_cifar100"]
    for gamma, source, number in ((0.05, "oblivious", 77.45), (0.1, "adaptive", 66.21)):
        names = [f"jsma_{gamma}_{reading}_{source}" for reading in ("art", "pdd", "pair")]
        assert {row[name] for name in names} == {number}
        assert [table5[name].gamma for name in names] == [gamma] * 3
        assert [table5[name].keep_failed for name in names] == [True, True, False]
        assert len({table5[name] for name in names}) == 3
    table4, _ = attacks("lpd.py:table4_cifar10")
    assert len([name for name in table4 if name.startswith("jsma")]) == 6
    assert attacks("lpd.py:figure2")[1].others == ("baseline", "adp", "pdd")
    members = load("ensemble_cifar100.py:vgg16").method.network
    assert (members.num_members, members.member.depth, members.member.norm) == (3, 16, True)

    for name, radii in (("table1", [16]), ("figure2", [2, 4, 8, 16, 32, 40])):
        found, evaluation = attacks(f"regroup.py:{name}")
        assert [round(attack.threat.eps * 255) for attack in found.values()] == radii
        assert {(attack.step_size, attack.num_steps) for attack in found.values()} == {(0.01, 40)}
        assert not evaluation.adversary.skip_misclassified  # top 5 are of all images
    # Figure 3's ten attacks, each on the images that its table or figure is of.
    measured = {}
    for name in ("figure3", "figure3_v50k", "figure3_targeted"):
        found = load_evaluation(f"regroup.py:{name}")
        asked = found.measures["voting layers"]
        measured[name] = (found.selection.num_examples, asked.of, set(asked.attacks.values()))
    figure2 = attacks("regroup.py:figure2")[0]
    assert measured == {
        "figure3": (10, "successes", set(attacks("regroup.py:table2")[0].values())),
        "figure3_v50k": (None, "all", {figure2[f"pgd40_{n}of255"] for n in (2, 4)}),
        "figure3_targeted": (2, "successes", set(attacks("regroup.py:table3")[0].values())),
    }
    assert load_evaluation("regroup.py:table1").printed.top5["regroup_imagenet"] == {
        "clean": 86, "pgd40_16of255": 65
    }  # fmt: skip
    for name, confidence in (("table3", 0.0), ("table4", 0.9)):
        searches = [a for a in attacks(f"regroup.py:{name}")[0].values() if hasattr(a, "growth")]
        for attack in searches:
            assert (attack.initial_eps, attack.num_steps) == (0.3, 40)
            assert attack.relative_step * attack.initial_eps == pytest.approx(0.01)
            assert attack.min_probability == confidence
        assert [a.targeted for a in searches] == ([True] if name == "table3" else [False, True])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_layers"),
    [
        ("regroup_imagenet.py:all_layers", 54),
        ("regroup_imagenet.py:vgg19_all_layers", 19),
        ("regroup_cifar10.py:vgg19", 19),
    ],
)
def test_every_layer_votes(name, num_layers):
    found, task = load(name).method, task_of(name)
    jax.eval_shape(found.make(task).init, key=jax.random.key(0))
    more = dataclasses.replace(found, num_layers=num_layers + 1).make(task)
    with pytest.raises(ValueError, match=f"<= {num_layers} layers"):
        jax.eval_shape(more.init, key=jax.random.key(0))


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("variant", "columns"),
    [
        ("table1", "pgd20 autoattack square"),
        ("tableA1", "pgd20 autoattack autoattack_rand20 autoattack_rand50 square"),
        ("table2_tiny_imagenet", "pgd20 autoattack square"),
        ("tableA2_tiny_imagenet", "pgd20 autoattack autoattack_rand20"),
        ("table2_imagenet", "pgd20 autoattack square"),
        ("tableA2_imagenet", "pgd20 autoattack autoattack_rand20"),
        ("tableA5", "autoattack_nt autoattack_at"),
        ("tableA6", "autoattack"),
        ("tableA6_by_evaluation", "autoattack"),
    ],
)
def test_kap_prints_every_column_of_its_tables(variant, columns):
    """NT and AT-ES have rows of their own, also where the network attacked has noise."""
    found = load_evaluation(f"kap.py:{variant}")
    assert found.printed is not None
    columns = columns.split()
    assert {"clean", *columns} >= {row for rows in found.printed.rows.values() for row in rows}
    assert any(set(columns) <= rows.keys() for rows in found.printed.rows.values())
    for name in columns:
        attack = found.attacks[name].attack
        if isinstance(attack, AutoAttack):
            draws = name.partition("rand")[2]
            assert attack.version == ("rand" if draws else "standard")
            assert not draws or attack.num_samples == int(draws)
    models = set(found.printed.rows)
    if variant.startswith("tableA6"):
        assert len(models) == 8
    elif variant != "tableA5":
        dataset = variant.partition("_")[2] or "cifar10"
        assert {f"standard_{dataset}", f"standard_{dataset}-at", f"kap_{dataset}"} <= models
        chosen = Selection(rule="random", num_examples=1000)
        assert found.selection == (chosen if "imagenet" in variant else Selection())


def test_recipes_of_the_baselines():
    """What papers and their codes say of initialisation, decay, warm-up and augmentation."""
    for name in ("ensemble_cifar10", "lpd_cifar10", "adp_cifar10:lpd", "trs_cifar10:lpd"):
        file, _, variant = name.partition(":")
        network = load(f"{file}.py:{variant or 'default'}").method.network
        assert network.member.framework == "torch_default"  # PDD's code
    found = load("batch_ensemble_cifar10.py").optimizer
    assert (found.undecayed, found.schedule.warmup) == (("r", "s"), 1.0)  # edward2
    for name in ("parl_cifar10", "parl_cifar100", "adp_cifar10", "ensemble_cifar10:resnet20"):
        file, _, variant = name.partition(":")
        augmentation = load(f"{file}.py:{variant or 'default'}").data.augmentation
        # "random shifts, flips and crops"
        assert (augmentation.shift, augmentation.crop_padding, augmentation.flip) == (0.1, 4, True)
    assert load("kap_imagenet.py:max").method.pool.kind == "max"


@pytest.mark.slow
def test_images_are_not_normalised_in_kap():
    for spec in CONFIGS:
        method = load(spec).method
        if isinstance(method, KAP):
            assert method.normalization == Normalization()


@pytest.mark.slow
def test_printed_numbers_are_those_of_the_docstrings():
    """Each stands in the docstring of the checkpoint's file, or of one that this names."""
    documented = functools.cache(
        lambda file: config.load_module(str(REPOSITORY / "configs" / file))[0]
    )
    found = [load_evaluation(spec).printed for spec in EVALUATIONS]
    found += [load(spec).evaluation.printed for spec in CONFIGS]
    found += [
        Printed(measure.printed.table, measure.printed.rows)
        for spec in EVALUATIONS
        for measure in (load_evaluation(spec).measures or {}).values()
        if measure.printed is not None
    ]
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
            written = {float(number) for number in re.findall(r"-?\d*\.?\d+(?:e-?\d+)?", text)}
            written |= {float(number) for number in re.findall(r"\d*\.?\d+", text)}  # "10-20"
            numbers = {*rows.values(), *printed.top5.get(model, {}).values()}
            assert numbers <= written, (model, numbers - written)
