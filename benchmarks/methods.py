"""Every method against the plain network, or the plain ensemble, of the same members: one table.

    python benchmarks/methods.py [--batch-size 64] [--only parl lpd] [--repeats 5]

Columns: seconds of a training step (loss, gradient and SGD update, jitted), its memory (XLA's
count for the compiled step: arguments + outputs + temporaries; donated buffers once), seconds of a
prediction, each with its ratio to the plain network's of the same row group. A method and its
reference are compiled both, then run in turn, ABAB..., and medians are compared: other work on the
machine slows both alike. The bound is the largest ratio that this project allows itself.

The table is printed and written, with hardware and versions, to benchmarks/results/.
"""

import dataclasses
import datetime
import functools
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import rich
import rich.table
import timing
from method_rows import Row, rows

from robust_jax import training
from robust_jax.data import Augmentation
from robust_jax.methods import Method, MethodConfig
from robust_jax.runtime import sharding
from robust_jax.training import TrainingConfig
from robust_jax.types import Batch, Task

TASK = Task(input_shape=(32, 32, 3), num_classes=10, num_train=50_000)
RESULTS = pathlib.Path(__file__).parent / "results"


class Compiled(NamedTuple):
    """A method compiled.

    Attributes:
        step: takes one training step.
        predict: predicts one batch.
        step_bytes: memory of the step, by XLA's count.
        predict_bytes: memory of the prediction.
    """

    step: Callable[[], Any]
    predict: Callable[[], Any]
    step_bytes: int
    predict_bytes: int


@functools.cache  # several rows have the same reference
def build(config: MethodConfig, trained: TrainingConfig, batch_size: int) -> Compiled:
    """Returns the method's training step and prediction, compiled and run once."""
    method, mesh = config.make(TASK), sharding.make_mesh(1)
    optimizer = optax.sgd(0.01, momentum=0.9)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    index = jnp.arange(batch_size)
    images = jax.random.uniform(jax.random.key(1), (batch_size, *TASK.input_shape))
    batch = Batch(images, index % TASK.num_classes, jnp.ones(batch_size, bool), index)
    key = jax.random.key(2)

    def predict(variables, images, key):
        return method.predict(variables, images, key=key)

    if method.fit is not None:
        fit, (fresh, labels) = method.fit, with_right_answers(method, variables, images)
        answered = batch._replace(label=labels)
        variables = fit(fresh, [answered], key=key)
        compiled_predict = jax.jit(predict).lower(variables, images, key).compile()

        def run_fit():
            return jax.block_until_ready(fit(fresh, [answered], key=key))

        return Compiled(
            run_fit,
            lambda: jax.block_until_ready(compiled_predict(variables, images, key)),
            timing.peak_bytes(compiled_predict),
            timing.peak_bytes(compiled_predict),
        )

    compiled_predict = jax.jit(predict).lower(variables, images, key).compile()
    step = training.make_train_step(method, optimizer, trained, Augmentation(), mesh)
    state = [training.init_state(variables, optimizer, trained, mesh, images.shape)]
    compiled_step = step.lower(state[0], batch, key).compile()

    def run_step():
        state[0], metrics = compiled_step(state[0], batch, key)
        return jax.block_until_ready(metrics)

    def run_predict():
        return jax.block_until_ready(compiled_predict(state[0].variables, images, key))

    run_step()
    run_predict()
    return Compiled(
        run_step, run_predict, timing.peak_bytes(compiled_step), timing.peak_bytes(compiled_predict)
    )


def with_right_answers(method: Method, variables: Any, images: Any) -> tuple[Any, Any]:
    """Returns variables and labels by which the untrained network is right in every class.

    Its head is moved so that no class is ahead of the others on average.
    """
    surrogate = jax.jit(lambda variables: method.views["surrogate"](variables, images, key=None))
    logits = surrogate(variables)
    params, backbone = variables["params"], dict(variables["params"]["backbone"])
    scale = jnp.std(logits, axis=0)
    linear = backbone["linear"]
    backbone["linear"] = {
        "kernel": linear["kernel"] / scale[None],
        "bias": (linear["bias"] - jnp.mean(logits, axis=0)) / scale,
    }
    variables = {**variables, "params": {**params, "backbone": backbone}}
    return variables, jnp.argmax(surrogate(variables), axis=-1)


def seconds(run: Callable[[], Any], repeats: int = 1) -> float:
    """Returns the time of some runs in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - start


class Measured(NamedTuple):
    """One line of the table: the method's numbers, and their ratios to the reference's."""

    name: str
    step: float
    step_ratio: float
    step_bound: float | None
    megabytes: float
    memory_ratio: float
    predict: float
    predict_ratio: float
    predict_bound: float | None


def measure(row: Row, batch_size: int, repeats: int) -> Measured:
    """Returns the medians over repeats in which method and reference take turns."""
    method = build(row.config, row.training, batch_size)
    reference = build(row.reference, TrainingConfig(), batch_size)
    times: dict[str, list[float]] = {"step": [], "predict": []}
    ratios: dict[str, list[float]] = {"step": [], "predict": []}
    for _ in range(repeats):
        for name in times:
            ours = seconds(getattr(method, name))
            compared = "predict" if row.fits else name
            theirs = seconds(getattr(reference, compared), row.reference_repeats)
            times[name].append(ours)
            ratios[name].append(ours / theirs)
    return Measured(
        name=row.name,
        step=statistics.median(times["step"]),
        step_ratio=statistics.median(ratios["step"]),
        step_bound=row.step_bound,
        megabytes=method.step_bytes / 2**20,
        memory_ratio=method.step_bytes
        / (reference.predict_bytes if row.fits else reference.step_bytes),
        predict=statistics.median(times["predict"]),
        predict_ratio=statistics.median(ratios["predict"]),
        predict_bound=row.predict_bound,
    )


HEADER = (
    "method", "step s", "ratio", "bound", "step MB", "ratio", "predict s", "ratio", "bound",
)  # fmt: skip


def cells(found: Measured) -> list[str]:
    """Returns a line of the table as text; a missed bound is marked."""

    def bound(value: float | None, ratio: float) -> str:
        if value is None:
            return "-"
        return f"{value:g}" + ("" if ratio <= value else " missed")

    return [
        found.name,
        f"{found.step:.3f}",
        f"{found.step_ratio:.2f}",
        bound(found.step_bound, found.step_ratio),
        f"{found.megabytes:.0f}",
        f"{found.memory_ratio:.2f}",
        f"{found.predict:.3f}",
        f"{found.predict_ratio:.2f}",
        bound(found.predict_bound, found.predict_ratio),
    ]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the benchmark.

    Attributes:
        batch_size: of steps and predictions.
        repeats: times that each method and its reference take turns.
        width: multiplies the widths of ResNet-18 (KAP, dropout).
        only: rows whose name contains one of these, in any case; empty for all. Some rows are
            printed alone, and leave the kept table as it is.
    """

    batch_size: int = 64
    repeats: int = 5
    width: float = 0.25
    only: tuple[str, ...] = ()


def main(arguments: Arguments) -> None:
    """Measures, prints and writes the table."""
    device = jax.devices()[0]
    title = (
        f"batch size {arguments.batch_size}, ResNet-18 width x {arguments.width:g}, "
        f"{arguments.repeats} repeats; {device.device_kind} ({platform.machine()}, "
        f"{jax.device_count()} device), jax {jax.__version__}, Python {platform.python_version()}"
    )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"methods_{device.platform}.md"
    text = [f"# Methods, {datetime.date.today().isoformat()}", "", title, ""]
    text += ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    table = rich.table.Table(*HEADER, title=title)
    for row in rows(arguments.width):
        if arguments.only and not any(o.lower() in row.name.lower() for o in arguments.only):
            continue
        line = cells(measure(row, arguments.batch_size, arguments.repeats))
        table.add_row(*line)
        text.append("| " + " | ".join(line) + " |")
        if not arguments.only:
            path.write_text("\n".join(text) + "\n")  # a run that is stopped keeps its rows
    rich.print(table)


if __name__ == "__main__":
    import tyro  # only the command line needs it

    main(tyro.cli(Arguments, description=__doc__))
