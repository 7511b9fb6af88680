"""Speed on the CPU beside PyTorch: a training step and PGD, both sides in one run.

    python benchmarks/cpu.py [--torch-python PYTHON] [--repetitions 3] [--calls 5]

PYTHON is an interpreter that has torch; it may be another than this one, of another version. Both
processes stay alive and take turns, one idle while the other runs. Everything is compiled and run
once before; a repetition is the median of some calls of each side. Compilation is stated apart.

Goals (of the median over the repetitions): PGD at most PyTorch's default time, the step at most 1.2
times PyTorch's (contiguous NCHW, its default), KAP's step at most 1.05 times the plain one.

The table is printed and written to benchmarks/results/cpu.md.
"""

import dataclasses
import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import timing
import tyro

from robust_jax import training
from robust_jax.attacks import PGD, ThreatModel, bind
from robust_jax.data import Augmentation
from robust_jax.methods import KAP, MethodConfig, Standard
from robust_jax.models import ResNetConfig
from robust_jax.runtime import sharding
from robust_jax.runtime.compilation import jitted
from robust_jax.training import TrainingConfig
from robust_jax.types import Batch, Task

TASK = Task(input_shape=(32, 32, 3), num_classes=10, num_train=50_000)
RESULT = pathlib.Path(__file__).parent / "results" / "cpu.md"
THREAT = ThreatModel("linf", eps=8 / 255)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the benchmark.

    Attributes:
        torch_python: interpreter of the PyTorch side; None for this one.
        repetitions: of the whole measurement.
        calls: of each side in a repetition.
        train_size: images of a training step.
        attack_size: images of an attack.
        num_steps: of PGD.
    """

    torch_python: str | None = None
    repetitions: int = 3
    calls: int = 5
    train_size: int = 32
    attack_size: int = 64
    num_steps: int = 20


class Side(NamedTuple):
    """Something to time: a call, and the seconds that its compilation took."""

    call: Callable[[], Any]
    compilation: float | None = None


def random_batch(batch_size: int) -> Batch:
    """Returns random images with labels."""
    images = jax.random.uniform(jax.random.key(1), (batch_size, *TASK.input_shape))
    index = jnp.arange(batch_size)
    return Batch(images, index % TASK.num_classes, jnp.ones(batch_size, bool), index)


def compiled(function: Any, *arguments: Any) -> tuple[Any, float]:
    """Returns the compiled function and the seconds that tracing and compiling took."""
    began = time.perf_counter()
    return function.lower(*arguments).compile(), time.perf_counter() - began


def training_step(config: MethodConfig, batch_size: int) -> Side:
    """Returns a step of the library's own loop: loss, gradient and update."""
    method, mesh = config.make(TASK), sharding.make_mesh(1)
    optimizer = optax.sgd(0.01, momentum=0.9)
    batch, key = random_batch(batch_size), jax.random.key(2)
    variables = jitted(lambda key: method.init(key=key))(jax.random.key(0))
    step = training.make_train_step(method, optimizer, TrainingConfig(), Augmentation(), mesh)
    state = [
        training.init_state(variables, optimizer, TrainingConfig(), mesh, batch.image.shape),
    ]
    run, seconds = compiled(step, state[0], batch, key)

    def call():
        state[0], metrics = run(state[0], batch, key)
        return metrics

    return Side(call, seconds)


def pgd(batch_size: int, num_steps: int) -> Side:
    """Returns PGD on the plain ResNet-20 with a random start."""
    method = Standard(network=ResNetConfig(depth=20, shortcut="A")).make(TASK)
    variables = jitted(lambda key: method.init(key=key))(jax.random.key(0))
    attack = PGD(THREAT, num_steps=num_steps, step_size=2 / 255, keep="last")
    batch = random_batch(batch_size)

    def run(variables, images, labels):
        view = bind(method.view("deployed"), variables)
        return attack(view, images, labels, key=jax.random.key(2))

    function, seconds = compiled(jitted(run), variables, batch.image, batch.label)
    return Side(lambda: function(variables, batch.image, batch.label), seconds)


class PyTorch:
    """The other process: runs a side when asked and waits in between."""

    def __init__(self, arguments: Arguments):
        sizes = (os.cpu_count(), arguments.train_size, arguments.attack_size, arguments.num_steps)
        script = pathlib.Path(__file__).with_name("cpu_torch.py")
        self.process = subprocess.Popen(
            [arguments.torch_python or sys.executable, str(script), *map(str, sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": ""},
        )
        self.version = self._answer()

    def run(self, name: str) -> None:
        """Returns when the other process has run a side once."""
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        self._answer()

    def close(self) -> None:
        """Ends the other process."""
        self.process.communicate()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError("Expected the PyTorch process to answer: see its error above.")
        return line


GOALS = {
    "PGD": ("PyTorch PGD, NCHW", 1.0),
    "step": ("PyTorch step, NCHW", 1.2),
    "KAP step": ("step", 1.05),
}
"""Side, what it is compared with, the largest ratio."""


def table(arguments: Arguments) -> list[str]:
    """Returns the lines of the table, measured."""
    network = ResNetConfig(depth=18)
    torch = PyTorch(arguments)
    sides = {
        "PGD": pgd(arguments.attack_size, arguments.num_steps),
        "step": training_step(Standard(network=network), arguments.train_size),
        "KAP step": training_step(KAP(network=network), arguments.train_size),
        "KAP without noise": training_step(KAP(network=network, sigma=0.0), arguments.train_size),
        "noise alone": training_step(KAP(network=network, pool=None), arguments.train_size),
    }
    for layout in ("NCHW", "channels_last"):
        for name, label in (("pgd", "PGD"), ("step", "step")):
            sides[f"PyTorch {label}, {layout}"] = Side(
                lambda side=f"{name} {layout}": torch.run(side)
            )
    calls = {name: side.call for name, side in sides.items()}
    found = [
        timing.interleaved(calls, repeats=arguments.calls) for _ in range(arguments.repetitions)
    ]
    torch.close()
    lines = [
        f"# The CPU beside PyTorch, {datetime.date.today().isoformat()}",
        "",
        f"jax {jax.__version__} (Python {platform.python_version()}), PyTorch {torch.version}, "
        f"{processor()}. PGD-{arguments.num_steps}: ResNet-20, {arguments.attack_size} images; "
        f"step: ResNet-18 of width 64, {arguments.train_size} images, SGD with momentum. Seconds: "
        f"medians of {arguments.calls} calls, a number for each repetition.",
        "",
        "| side | seconds | compiled in | compared with | ratio | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, side in sides.items():
        seconds = ", ".join(f"{repetition[name]:.3f}" for repetition in found)
        compiling = "" if side.compilation is None else f"{side.compilation:.1f} s"
        other, goal = GOALS.get(name, (None, 0.0))
        ratios, verdict = "", ""
        if other is not None:
            values = [repetition[name] / repetition[other] for repetition in found]
            ratios = ", ".join(f"{value:.2f}" for value in values)
            verdict = f"{goal:g}" + ("" if statistics.median(values) <= goal else " missed")
        cells = [name, seconds, compiling, other or "", ratios, verdict]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def processor() -> str:
    """Returns the number of cores and the processor's name."""
    name = platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        names = [x for x in information.read_text().splitlines() if x.startswith("model name")]
        name = names[0].split(":")[1].strip() if names else name
    return f"{os.cpu_count()} cores of {name}"


def main(arguments: Arguments) -> None:
    """Measures, prints and writes the table."""
    text = "\n".join(table(arguments))
    print(text)
    RESULT.write_text(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
