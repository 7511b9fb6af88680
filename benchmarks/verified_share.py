"""Verified shares of public networks: python benchmarks/verified_share.py --checkpoints DIR ...

The two residual networks of VNN-COMP 2021 on the first CIFAR-10 test images, at 1/255 and 2/255:
images whose smallest margin by CROWN is above 0, with a 95 % interval, beside what the
alpha-beta-CROWN repository publishes of all 10,000. A line per image goes to the log, from which a
run that was stopped goes on; --ascent takes alpha-CROWN instead.
"""

import dataclasses
import json
import pathlib
import time

import jax
import numpy as np
import public_networks
import timing
from jax.tree_util import Partial

from robust_jax import metrics
from robust_jax.certify import Margins, SlopeAscent, crown_margins, smallest_margin

PUBLISHED = {
    ("resnet2b", 1): 57.16,
    ("resnet2b", 2): 26.88,
    ("resnet4b", 1): 23.28,
    ("resnet4b", 2): 0.24,
}
"""CROWN's verified share of 10,000 test images in %, by network and eps in 1/255."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the benchmark.

    Attributes:
        checkpoints: folder of the public files.
        data_dir: folder of the prepared TFDS datasets.
        num_images: test images, from the first.
        names: networks.
        eps: radii in 1/255.
        ascent: take alpha-CROWN?
        out: folder for the table and the log.
    """

    checkpoints: pathlib.Path
    data_dir: pathlib.Path
    num_images: int = 1000
    names: tuple[str, ...] = ("resnet2b", "resnet4b")
    eps: tuple[int, ...] = (1, 2)
    ascent: bool = False
    out: pathlib.Path = pathlib.Path("runs/verified_share")

    @property
    def bound(self) -> str:
        """What bounds the margins."""
        return "alpha-crown" if self.ascent else "crown"


def margins(name: str, eps: int, arguments: Arguments, log: pathlib.Path) -> list[dict]:
    """Returns the log's lines of a network at a radius, the missing ones made and written."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    found = [one for one in lines if (one["network"], one["eps"]) == (name, eps)]
    if len(found) >= arguments.num_images:
        return found[: arguments.num_images]
    view, images, labels = public_networks.load(
        name, arguments.checkpoints, arguments.data_dir, arguments.num_images
    )
    logits = Partial(lambda view, images: view(images, key=jax.random.key(0)), view)
    ascent = SlopeAscent() if arguments.ascent else None
    for start in range(len(found), arguments.num_images, Margins.images_at_once):
        chosen = slice(start, min(start + Margins.images_at_once, arguments.num_images))
        begin = time.perf_counter()
        clean = np.argmax(logits(images[chosen]), axis=1)
        bounds = crown_margins(logits, images[chosen], labels[chosen], eps / 255, ascent=ascent)
        smallest = np.asarray(smallest_margin(bounds, labels[chosen]))
        seconds = (time.perf_counter() - begin) / len(smallest)
        made = [
            {
                "network": name, "eps": eps, "image": start + number, "label": int(label),
                "right": bool(own == label), "margin": round(float(margin), 4),
                "seconds": round(seconds, 3),
            }
            for number, (label, own, margin) in enumerate(
                zip(np.asarray(labels[chosen]), clean, smallest, strict=True)
            )
        ]  # fmt: skip
        with log.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in made)
        found += made
    return found


def row(name: str, eps: int, lines: list[dict]) -> list[str]:
    """Returns the shares of a network at a radius."""
    verified, count = sum(line["margin"] > 0 for line in lines), len(lines)
    low, high = (100 * bound for bound in metrics.interval(verified, count))
    return [
        name,
        f"{eps}/255",
        str(count),
        f"{100 * sum(line['right'] for line in lines) / count:.1f}",
        f"{100 * verified / count:.1f} ({low:.1f} to {high:.1f})",
        f"{PUBLISHED[name, eps]:.2f}",
        f"{np.median([line['seconds'] for line in lines]):.2f}",
    ]


def main(arguments: Arguments) -> None:
    """Completes the log, prints and writes the table."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / f"verified_{arguments.bound}.jsonl"
    rows = [
        row(name, eps, margins(name, eps, arguments, log))
        for name in arguments.names
        for eps in arguments.eps
    ]
    headings = [
        "network", "eps", "images", "right %", "verified % (95 %)", "published", "s an image",
    ]  # fmt: skip
    file = arguments.out / f"verified_{arguments.bound}.txt"
    timing.report(f"Margins above 0 by {arguments.bound}", headings, rows, file)


if __name__ == "__main__":
    import tyro  # only the command line needs it

    main(tyro.cli(Arguments, description=__doc__))
