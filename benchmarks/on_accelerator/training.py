"""Training: an epoch beside PyTorch's best, every method's step, members, the parts of a step."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import methods
import optax
from method_rows import Row, rows

from on_accelerator import sides
from on_accelerator.carried import TOY
from on_accelerator.rows import Setting, Task, Value
from robust_jax import experiment, training
from robust_jax.data import Augmentation, Blobs, Data, DataConfig, open_data
from robust_jax.experiment.config import Config
from robust_jax.methods import KAP, MethodConfig, Standard
from robust_jax.methods.base import Method
from robust_jax.methods.network import network_method
from robust_jax.models import EnsembleConfig, NetworkConfig, ResNetConfig, default_layers
from robust_jax.runtime import sharding
from robust_jax.training import Phase, TrainingConfig
from robust_jax.training.plan import make_plan

EPOCH_IMAGES = 50_000
CROP_AND_FLIP = Augmentation(crop_padding=4, flip=True)

FIRST = ("KAP", "NT", "ensemble", "PGD-10", "Fast-AT", "TRADES", "LPD", "PARL H", "RLS", "REGroup")
"""Rows that are measured before the others, by the start of their names."""


@functools.cache
def images_of(setting: Setting) -> Data:
    """Returns random images of CIFAR's size: the time of a step does not depend on them."""
    size = 64 if setting.toy else 10_240
    source = Blobs(num_train=size, num_test=10, image_size=32, channels=3, num_classes=10)
    return open_data(DataConfig(source, augmentation=CROP_AND_FLIP))


class Loop:
    """A training run of some steps at a time, data and augmentation included."""

    def __init__(
        self,
        setting: Setting,
        method: MethodConfig,
        batch_size: int,
        precision: str,
        augmentation: Augmentation = CROP_AND_FLIP,
        options: dict[str, Any] | None = None,
    ) -> None:
        start = time.perf_counter()
        data, mesh = images_of(setting), sharding.make_mesh(1)
        phases = (Phase(1e6, batch_size=batch_size),)
        config = Config("loop", data.config, method, training=TrainingConfig(phases=phases))
        made, plan = method.make(data.task), make_plan(config.training, data.task.num_train, mesh)
        optimizer = optax.sgd(0.01, momentum=0.9)
        with jax.default_matmul_precision(sides.PRECISIONS[precision]):
            step = training.make_train_step(made, optimizer, config.training, augmentation, mesh)
            variables = experiment.init_variables(config, data, made, mesh)
            self._state = training.init_state(variables, optimizer, config.training, mesh)
            self._batches = training.batches(data, plan, mesh, seed=0, start=0)
            self._key = jax.random.key(0)
            lowered = step.lower(self._state, next(self._batches), self._key)
            program = lowered.compile(compiler_options=options)
        self._step, self.compile_seconds = program, time.perf_counter() - start
        self.num_bytes = sides.timing.peak_bytes(program)

    def run(self, num_steps: int) -> None:
        """Takes steps, and waits for the last."""
        for batch in itertools.islice(self._batches, num_steps):
            self._state, _ = self._step(self._state, batch, self._key)
        jax.block_until_ready(self._state)


def torch_loop(network: ResNetConfig, batch_size: int, precision: str, way: str, num_images: int):
    """Returns a function of the number of steps: the same training in PyTorch.

    Images lie on the device as bytes; crops and flips are one gather each.
    """
    import torch
    from torch import nn
    from torch_resnet import TorchResNet

    from robust_jax.models import Normalization

    device = sides.torch_device()
    model: Any = TorchResNet(network, Normalization()).to(device).train()
    if way != "plain":
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    if "compiled" in way:
        model = torch.compile(model)
    pixels = torch.randint(0, 256, (num_images, 3, 40, 40), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (num_images,), device=device)
    window = torch.arange(32, device=device)

    def step() -> Any:
        rows = torch.randint(0, num_images, (batch_size,), device=device)
        top, left = torch.randint(0, 9, (2, batch_size, 1), device=device)
        across = left + torch.where(
            torch.rand(batch_size, 1, device=device) < 0.5, window, window.flip(0)
        )
        found = pixels[rows][
            torch.arange(batch_size, device=device)[:, None, None],
            :,
            (top + window)[:, :, None],
            across[:, None, :],
        ]
        images = found.permute(0, 3, 1, 2).float() / 255
        if way != "plain":
            images = images.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled="AMP" in way):
            loss = nn.functional.cross_entropy(model(images).float(), labels[rows])
        loss.backward()
        optimizer.step()
        return loss

    def run(num_steps: int) -> None:
        def steps() -> None:
            for _ in range(num_steps):
                step()

        sides.torch_call(steps, precision)()

    return run


def seconds_per_epoch(run: Callable[[int], None], batch_size: int, num_steps: int) -> float:
    """Returns the seconds of an epoch of CIFAR-10, the faster of two stretches of steps."""
    run(3)
    found = []
    for _ in range(2):
        start = time.perf_counter()
        run(num_steps)
        found.append(time.perf_counter() - start)
    return min(found) / num_steps * (EPOCH_IMAGES // batch_size)


def epoch(setting: Setting, size: int, kind: str) -> dict[str, Value]:
    """Returns the row of an epoch: ours, and PyTorch's ways at the same precision."""
    num_steps = 2 if setting.toy else max(20, 20_000 // size)
    precision = "exact" if kind == "exact" else "default"
    ours = Loop(setting, in_dtype(Standard(network=network_of(setting)), kind), size, precision)
    values: dict[str, Value] = {"ours s": seconds_per_epoch(ours.run, size, num_steps)}
    values |= {"compile s": ours.compile_seconds, "MiB": sides.mebibytes(ours.num_bytes)}
    if not sides.installed("torch"):
        return values
    ways = ["plain", "channels_last"]
    if kind == "bfloat16":
        ways = ["channels_last AMP", "channels_last AMP compiled"]
    network, num_images = network_of(setting), images_of(setting).task.num_train
    best = None
    for way in ways:
        try:
            run = torch_loop(network, size, precision, way, num_images)
            found = seconds_per_epoch(run, size, num_steps)
        except Exception as error:  # a compiler that is missing on the node
            values[f"PyTorch {way} s"] = type(error).__name__
        else:
            values[f"PyTorch {way} s"] = found
            best = found if best is None else min(best, found)
    values["PyTorch's best / ours"] = None if best is None else best / values["ours s"]
    return values


def network_of(setting: Setting) -> ResNetConfig:
    """Returns ResNet-18 of width 64."""
    return TOY if setting.toy else ResNetConfig(depth=18)


@dataclasses.dataclass(frozen=True)
class WithoutNorm(Standard):
    """The plain network whose normalisation layers do nothing: what BatchNorm costs."""

    def make(self, task: Any) -> Method:
        """Returns the method."""
        layers = default_layers()._replace(norm=lambda **_: lambda x, **_: x)
        return network_method(self.classifier(task, layers), self, task)


def shares(setting: Setting) -> Iterator[Task]:
    """Yields what a step is made of, each part by a step without it."""
    network = network_of(setting)
    size = 8 if setting.toy else 256
    parts: dict[str, tuple[MethodConfig, Augmentation]] = {
        "plain": (Standard(network=network), CROP_AND_FLIP),
        "without crops and flips": (Standard(network=network), Augmentation()),
        "without BatchNorm": (WithoutNorm(network=network), CROP_AND_FLIP),
        "activation noise .1 (at most 1.10)": (
            KAP(network=network, pool=None, sigma=0.1), CROP_AND_FLIP,
        ),
        "kernel average pooling": (KAP(network=network, sigma=0.0), CROP_AND_FLIP),
        "pooling and noise .1": (KAP(network=network, sigma=0.1), CROP_AND_FLIP),
    }  # fmt: skip
    if setting.toy:
        parts = {name: parts[name] for name in ("plain", "pooling and noise .1")}
    kinds = ("default",) if setting.toy else ("default", "bfloat16")
    num_steps = 2 if setting.toy else 40
    plain: dict[str, float] = {}

    def run(kind: str, name: str) -> dict[str, Value]:
        config, augmentation = parts[name]
        loop = Loop(setting, in_dtype(config, kind), size, "default", augmentation)
        found = seconds_per_epoch(loop.run, size, num_steps) / (EPOCH_IMAGES // size)
        plain.setdefault(kind, found)
        return {
            "ms a step": 1e3 * found, "of the plain step": found / plain[kind],
            "MiB": sides.mebibytes(loop.num_bytes),
        }  # fmt: skip

    for kind, name in itertools.product(kinds, parts):
        yield Task(
            f"what a step is made of, batch {size}", sides.names((name, kind)),
            functools.partial(run, kind, name),
        )  # fmt: skip


def in_dtype(config: Any, kind: str) -> Any:
    """Returns the method with bfloat16 activations where `kind` says so."""
    return dataclasses.replace(config, dtype="bfloat16") if kind == "bfloat16" else config


def members(network: NetworkConfig, name: str) -> list[Row]:
    """Returns a plain ensemble's step by each way of running its members, beside "map"."""
    strategies: Sequence[Any] = ("map", "unroll", "vmap")
    made = [Standard(network=EnsembleConfig(network, 3, strategy)) for strategy in strategies]
    return [
        Row(f"3 x {name}, {strategy}", config, made[0])
        for strategy, config in zip(strategies, made, strict=True)
    ]


def compared(setting: Setting, table: str, wanted: list[Row], size: int) -> Iterator[Task]:
    """Yields methods beside their references."""

    def measure(row: Row) -> dict[str, Value]:
        found = methods.measure(row, size, 2 if setting.toy else 5)
        return {
            "step ms": 1e3 * found.step, "ratio": found.step_ratio, "bound": found.step_bound,
            "MiB": round(found.megabytes), "predict ms": 1e3 * found.predict,
            "predict ratio": found.predict_ratio,
        }  # fmt: skip

    for row in wanted:
        yield Task(table, row.name, functools.partial(measure, row))


def tasks(setting: Setting) -> Iterator[Task]:
    """Yields the rows, those that decide first."""
    sizes = (8,) if setting.toy else (512, 128)
    kinds = ("exact",) if setting.toy else ("bfloat16", "default", "exact")
    table = "seconds of an epoch of 50,000 images, ResNet-18"
    for size, kind in itertools.product(sizes, kinds):
        call = functools.partial(epoch, setting, size, kind)
        yield Task(table, sides.names((f"batch {size}", kind)), call)
        if (size, kind) == (sizes[0], kinds[-1]):
            yield from shares(setting)
    size = 8 if setting.toy else 128
    found = [] if setting.toy else rows(1.0)
    first = [row for row in found if row.name.startswith(FIRST)]
    yield from compared(setting, f"every method's step, batch {size}", first, size)
    small = TOY if setting.toy else ResNetConfig(depth=20)
    by_way = members(small, "ResNet-20")
    by_way = by_way[:2] if setting.toy else by_way + members(ResNetConfig(depth=18), "ResNet-18")
    yield from compared(setting, f"members of an ensemble, batch {size}", by_way, size)
    others = [row for row in found if row not in first]
    yield from compared(setting, f"every method's step, batch {size}", others, size)
