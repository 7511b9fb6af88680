"""What a curve over radii costs: a program a radius, one for all, and without what has fallen.

python benchmarks/radii.py --checkpoint FILE --data-dir DIR [--num-images 64] [--num-steps 100]
    [--eps .1 .25 .5 1 2] [--out LOG]

FILE is akamaster_resnet20_cifar10.th, DIR a folder of prepared TFDS datasets. APGD-CE in Linf, eps
in units of 1/255, on the first test images. Seconds hold the compilations, and every side compiles
its own. Passes are forward and backward ones of all images in all balls.
"""

import dataclasses
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from autoattack_parity import Arguments as Parity
from autoattack_parity import load
from timing import teller

from robust_jax.attacks import APGD, ThreatModel, over_radii
from robust_jax.attacks.base import perturbed


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the comparison.

    Attributes:
        checkpoint: akamaster_resnet20_cifar10.th.
        data_dir: folder of prepared TFDS datasets.
        num_images: how many test images.
        num_steps: of APGD-CE.
        eps: radii, in grey levels.
        batch_size: images at a time.
        out: file that the lines are appended to.
    """

    checkpoint: pathlib.Path
    data_dir: str
    num_images: int = 64
    num_steps: int = 100
    eps: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0)
    batch_size: int = 64
    out: pathlib.Path | None = None


def main(arguments: Arguments) -> None:
    """Prints one line per side."""
    parity = Parity(arguments.checkpoint, arguments.data_dir, num_images=arguments.num_images)
    view, images, labels = load(parity)
    eps = [radius / 255 for radius in arguments.eps]
    attack = APGD(ThreatModel("linf", 0.0), num_steps=arguments.num_steps)
    forward, key = jax.jit(lambda view, images: view(images, key=None)), jax.random.key(0)
    parts = [
        np.arange(first, min(first + arguments.batch_size, len(images)))
        for first in range(0, len(images), arguments.batch_size)
    ]

    def standing(points):
        logits = [forward(view, jnp.asarray(points[rows])) for rows in parts]
        return np.argmax(np.concatenate(logits), axis=1) == labels

    def in_each_ball(attacked):
        found = []
        for one in map(attack.with_eps, eps):
            call = attacked(one)
            points = [
                call(one.prepared(view, images[rows], labels[rows], key=key, index=rows))
                for rows in parts
            ]
            found.append(right & standing(np.concatenate(points)))
        return found, len(eps) * len(images) * 2 * (arguments.num_steps + 1)

    def without_the_fallen():
        found = over_radii(
            attack, view, images, labels, eps=eps, key=key, batch_size=arguments.batch_size
        )
        assert all(np.array_equal(*pair) for pair in zip(
            found.standing, map(standing, found.images), strict=True
        ))  # fmt: skip
        return found.standing, sum(int(each.sum()) for cost in found.passes for each in cost)

    one_program = jax.jit(perturbed)
    sides = {
        "a program a radius": lambda: in_each_ball(
            lambda one: jax.jit(functools.partial(perturbed, one))
        ),
        "one program": lambda: in_each_ball(lambda one: functools.partial(one_program, one)),
        "over_radii": without_the_fallen,
    }
    right = standing(images)
    say = teller(arguments.out)
    say(
        f"{len(images)} images, clean {right.sum()}, APGD-CE {arguments.num_steps} steps, eps "
        f"{arguments.eps} / 255, jax {jax.__version__} on {jax.default_backend()}"
    )
    say(f"{'side':22}{'seconds':>9}{'passes':>12}  standing")
    before = None
    for name, side in sides.items():
        began = time.perf_counter()
        found, passes = side()
        seconds = time.perf_counter() - began
        say(f"{name:22}{seconds:9.1f}{passes:12,}  {[int(each.sum()) for each in found]}")
        if before is not None:
            assert not np.any(np.stack(found) & ~np.stack(before)), "more stand than alone"
        before = found


if __name__ == "__main__":
    main(tyro.cli(Arguments))
