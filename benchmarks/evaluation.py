"""What the evaluation harness adds to the attacks' own time: python benchmarks/evaluation.py.

Both sides in turn, compiled before: the jitted attack on batches that lie on the device already,
and `evaluate` of the same attack on the same images, with clean predictions, decisions, distances
and records on disk. The bound is 5 %.
"""

import dataclasses
import pathlib
import tempfile

import jax
import timing
import tyro

from robust_jax import evaluation
from robust_jax.attacks import PGD, ThreatModel, bind
from robust_jax.data import Blobs, DataConfig, eval_batches, open_data
from robust_jax.evaluation.protocol import Adversary, AttackRun, Evaluation
from robust_jax.methods import Standard
from robust_jax.models import ResNetConfig
from robust_jax.runtime.compilation import jitted
from robust_jax.runtime.sharding import batched, make_mesh


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the benchmark.

    Attributes:
        batch_size: images in a batch.
        num_batches: batches of either side.
        num_steps: of PGD.
        repeats: times that the two sides take turns.
        out: folder for the table.
    """

    batch_size: int = 64
    num_batches: int = 4
    num_steps: int = 20
    repeats: int = 5
    out: pathlib.Path | None = None


def rows(arguments: Arguments) -> list[list[str]]:
    """Returns the seconds of both sides."""
    mesh, num_images = make_mesh(1), arguments.batch_size * arguments.num_batches
    source = Blobs(num_test=num_images, image_size=32, num_classes=10)
    data = open_data(DataConfig(source, validation_size=0))
    method = Standard(network=ResNetConfig(depth=20)).make(data.task)
    variables = method.init(key=jax.random.key(0))
    attack = PGD(ThreatModel("linf", 8 / 255), num_steps=arguments.num_steps)
    config = Evaluation(
        {"pgd": AttackRun(attack)},
        adversary=Adversary(skip_misclassified=False),
        batch_size=arguments.batch_size,
    )
    evaluator = evaluation.make_evaluator(method, config, mesh)
    size = arguments.batch_size
    batches = list(eval_batches(data.test, size, None, batched(mesh)))

    @jitted
    def attacked(variables, batch):
        view = bind(method.view("deployed"), variables)
        key = jax.random.key(0)
        return attack(view, batch.image, batch.label, key=key, index=batch.index)

    def harness():
        with tempfile.TemporaryDirectory() as folder:
            evaluation.evaluate(evaluator, variables, data.test, directory=pathlib.Path(folder))

    seconds = timing.interleaved(
        {
            "attack": lambda: [attacked(variables, batch) for batch in batches],
            "evaluate": harness,
        },
        repeats=arguments.repeats,
    )
    ratio = seconds["evaluate"] / seconds["attack"]
    return [
        ["the jitted attack", f"{seconds['attack']:.2f}", ""],
        ["evaluate", f"{seconds['evaluate']:.2f}", f"{ratio:.3f} (at most 1.05)"],
    ]


def main(arguments: Arguments) -> None:
    """Measures, prints and writes the table."""
    file = arguments.out / "evaluation.txt" if arguments.out else None
    size = f"{arguments.num_batches} batches of {arguments.batch_size}"
    title = f"PGD-{arguments.num_steps} on a ResNet-20, {size}"
    timing.report(title, ["side", "seconds", "ratio"], rows(arguments), file)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
