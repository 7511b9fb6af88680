"""The ratios of the foundation, both sides in one run: python benchmarks/foundation.py [--out DIR].

* PGD-10 in one jitted call against the same steps from a Python loop over a jitted step, and
  against PyTorch where torch is installed;
* a KAP training step against the plain one, without and with activation noise;
* the training loop, data included, against the bare jitted step on fixed data;
* how often each function was compiled.
"""

import dataclasses
import importlib.util
import itertools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing
import tyro

from robust_jax import experiment, training
from robust_jax.attacks import PGD, ThreatModel, bind
from robust_jax.data import Augmentation, Blobs, DataConfig, open_data
from robust_jax.experiment.config import Config
from robust_jax.methods import KAP, Standard
from robust_jax.models import Normalization, ResNetConfig
from robust_jax.runtime import sharding
from robust_jax.runtime.compilation import jitted
from robust_jax.training import Phase, TrainingConfig
from robust_jax.training.plan import make_plan
from robust_jax.types import Batch, Task

TASK = Task((32, 32, 3), 10, 50_000)
NETWORKS = {
    "ResNet-18, width 16": ResNetConfig(depth=18, width_multiplier=0.25),
    "ResNet-20": ResNetConfig(depth=20),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the benchmark.

    Attributes:
        batch_size: images in a batch.
        repeats: timed calls of each side.
        width: stem width of the ResNet-18 whose training step is timed (64 is the paper's).
        out: folder for the tables.
    """

    batch_size: int = 64
    repeats: int = 7
    width: int = 64
    out: pathlib.Path | None = None


def make_batch(size: int) -> Batch:
    """Returns random images with labels."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((size, 32, 32, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, size), jnp.int32)
    return Batch(images, labels, jnp.ones(size, bool), jnp.arange(size, dtype=jnp.int32))


def attack_rows(arguments: Arguments) -> list[list[str]]:
    """Returns PGD-10 in one call, from a Python loop, and in PyTorch."""
    rows = []
    batch, threat = make_batch(arguments.batch_size), ThreatModel("linf", 8 / 255)
    whole = PGD(threat, num_steps=10, step_size=2 / 255, keep="last")
    one = PGD(threat, num_steps=1, step_size=2 / 255, keep="last", random_start=False)
    for name, network in NETWORKS.items():
        method = Standard(network=network).make(TASK)
        variables = jax.jit(lambda key, method=method: method.init(key=key))(jax.random.key(0))
        view, key = bind(method.views["deployed"], variables), jax.random.key(1)

        def in_one_call(view=view, key=key):
            return whole(view, batch.image, batch.label, key=key)

        @jitted
        def step(view, images, labels, key):
            return threat.project(one(view, images, labels, key=key), batch.image)

        def python_loop(view=view, key=key, step=step):
            images = batch.image
            for _ in range(10):
                images = step(view, images, batch.label, key)
            return images

        sides: dict[str, Any] = {"one call": in_one_call, "Python loop": python_loop}
        if importlib.util.find_spec("torch") is not None:
            sides["PyTorch"] = torch_pgd(network, variables, batch)
        seconds = timing.interleaved(sides, repeats=arguments.repeats)
        row = [name, f"{seconds['one call']:.3f}", f"{seconds['Python loop']:.3f}"]
        row += [f"{seconds['Python loop'] / seconds['one call']:.2f} (at least 1)"]
        if "PyTorch" in seconds:
            row += [f"{seconds['PyTorch']:.3f}", f"{seconds['PyTorch'] / seconds['one call']:.2f}"]
        rows.append(row)
    return rows


def torch_pgd(network: ResNetConfig, variables: Any, batch: Batch) -> Any:
    """Returns PGD-10 on a copy of the network in PyTorch, channels last."""
    import torch
    import torch_resnet

    model = torch_resnet.torch_copy(network, variables, Normalization())
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    clean = torch_resnet.channel_first(batch.image).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(np.array(batch.label)).long()
    sizes = {"eps": 8 / 255, "step_size": 2 / 255, "num_steps": 10}
    return lambda: torch_resnet.torch_pgd(model, clean, labels, **sizes).numpy()


def training_rows(arguments: Arguments) -> list[list[str]]:
    """Returns training steps of KAP against the plain network's."""
    network = ResNetConfig(depth=18, width_multiplier=arguments.width / 64)
    configs = {
        "plain": Standard(network=network),
        "KAP, no noise": KAP(network=network, sigma=0.0),
        "noise alone": KAP(network=network, pool=None, sigma=0.1),
        "KAP and noise": KAP(network=network, sigma=0.1),
        "KAP, ImageNet order, no noise": KAP(network=network, sigma=0.0, order="conv_norm_pool"),
    }
    bounds = {"KAP, no noise": "1.05", "noise alone": "1.15 (CPU), 1.10 (GPU)"}
    batch, mesh = make_batch(arguments.batch_size), sharding.make_mesh(1)
    optimizer = optax.sgd(0.01, momentum=0.9)
    sides, bytes_of = {}, {}
    for name, config in configs.items():
        method = config.make(TASK)
        variables = jax.jit(lambda key, method=method: method.init(key=key))(jax.random.key(0))
        step = training.make_train_step(method, optimizer, TrainingConfig(), Augmentation(), mesh)
        state = training.init_state(variables, optimizer, TrainingConfig(), mesh)
        compiled = step.lower(state, batch, jax.random.key(1)).compile()
        bytes_of[name] = timing.peak_bytes(compiled)
        holder = [state]

        def call(compiled=compiled, holder=holder):
            holder[0], metrics = compiled(holder[0], batch, jax.random.key(1))
            return metrics

        sides[name] = call
    seconds = timing.interleaved(sides, repeats=arguments.repeats)
    return [
        [
            name, f"{value:.3f}", f"{value / seconds['plain']:.3f}", bounds.get(name, ""),
            f"{bytes_of[name] / 2**20:.0f} MiB",
        ]
        for name, value in seconds.items()
    ]  # fmt: skip


def loop_rows(arguments: Arguments) -> list[list[str]]:
    """Returns the training loop at CIFAR size, data included, against the bare step."""
    mesh = sharding.make_mesh(1)
    source = Blobs(num_train=10_000, num_test=100, image_size=32, channels=3, num_classes=10)
    augmentation = Augmentation(crop_padding=4, flip=True)
    config = Config(
        "loop",
        DataConfig(source, augmentation=augmentation),
        Standard(network=NETWORKS["ResNet-20"]),
        training=TrainingConfig(phases=(Phase(100.0, batch_size=arguments.batch_size),)),
    )
    data = open_data(config.data)
    method = config.method.make(data.task)
    plan = make_plan(config.training, data.task.num_train, mesh)
    optimizer = config.optimizer.make(plan.step_at, 100.0)
    variables = experiment.init_variables(config, data, method, mesh)
    step = training.make_train_step(method, optimizer, config.training, augmentation, mesh)
    state = training.init_state(variables, optimizer, config.training, mesh)
    stream = training.batches(data, plan, mesh, seed=0, start=0)
    fixed, key, num_steps = next(stream), jax.random.key(0), 20
    state, _ = step(state, fixed, key)
    seconds: dict[str, list[float]] = {"bare step": [], "loop": []}
    for _ in range(arguments.repeats):
        for name, batches in (
            ("bare step", itertools.repeat(fixed, num_steps)),
            ("loop", itertools.islice(stream, num_steps)),
        ):
            start = time.perf_counter()
            for batch in batches:
                state, _ = step(state, batch, key)
            jax.block_until_ready(state)
            seconds[name].append((time.perf_counter() - start) / num_steps)
    bare, loop = (float(np.median(seconds[name])) for name in ("bare step", "loop"))
    assert step._cache_size() == 1, "the step was compiled more than once"
    return [
        ["bare step", f"{1e3 * bare:.1f}", ""],
        ["loop with data", f"{1e3 * loop:.1f}", f"{bare / loop:.3f} of its speed (at least 0.95)"],
        ["compilations of the step", str(step._cache_size()), "1"],
    ]


def main(arguments: Arguments) -> None:
    """Prints the tables, and writes them where asked."""

    def file(name: str) -> pathlib.Path | None:
        return None if arguments.out is None else arguments.out / f"foundation-{name}.txt"

    size = f"batch size {arguments.batch_size}"
    timing.report(
        f"PGD-10, seconds, {size}",
        ["network", "one call", "Python loop", "loop / one call", "PyTorch", "PyTorch / one call"],
        attack_rows(arguments), file("attack"),
    )  # fmt: skip
    timing.report(
        f"Training step, ResNet-18 of width {arguments.width}, {size}",
        ["method", "seconds", "ratio", "at most", "memory"],
        training_rows(arguments), file("training"),
    )  # fmt: skip
    timing.report(
        f"Training loop, ResNet-20 on 32 x 32 images, {size}",
        ["side", "ms a step", ""], loop_rows(arguments), file("loop"),
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
