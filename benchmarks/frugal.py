"""What a verdict costs: images left standing against passes, of several designs of a suite.

python benchmarks/frugal.py --checkpoints DIR --data-dir DIR [--num-images 512] [--out LOG]
    [--network resnet20 surrogate1:majority ...] [--eps 0.5 1 ...] [--designs NAME ...] [--official]

DIR are the folder of the public PyTorch files (`public_networks.py`) and one of prepared TFDS
datasets; Linf, the first test images. A forward pass of an image is one, a backward pass one. Every
image that counts as fallen is judged again, apart from the attack. Designs are those below,
FrugalAttack and AutoAttack. With --official the official code attacks the public ResNet-20 in the
same run, after ours.
"""

import dataclasses
import pathlib
import time

import jax
import numpy as np
import tyro
from public_networks import load, parts_of, standing_of
from timing import teller

from robust_jax.attacks import (
    APGD,
    APGDT,
    FABT,
    PGD,
    AutoAttack,
    FrugalAttack,
    Suite,
    ThreatModel,
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the comparison.

    Attributes:
        checkpoints: folder of the public PyTorch files.
        data_dir: folder of prepared TFDS datasets.
        network: which of `public_networks.FILES`, an ensemble's with its rule.
        eps: radii, of 255.
        num_images: how many test images.
        designs: which.
        batch_size: images at a time.
        seed: of the draws.
        official: does the official code follow?
        out: file that the lines are appended to.
    """

    checkpoints: pathlib.Path
    data_dir: str
    network: tuple[str, ...] = ("resnet20",)
    eps: tuple[float, ...] = (0.5,)
    num_images: int = 512
    designs: tuple[str, ...] = ("FrugalAttack",)
    batch_size: int = 128
    seed: int = 0
    official: bool = False
    out: pathlib.Path | None = None


def designs(threat, batch_size):
    """Returns the suite of each name."""

    def apgd(loss, num_steps):
        return APGD(threat, loss=loss, num_steps=num_steps)

    def towards(order, num_targets, num_steps, loss="dlr"):
        return APGDT(
            threat, num_targets=num_targets, target_order=order, num_steps=num_steps, loss=loss
        )

    pm = "probability_margin"
    parts = {
        "ce 100": (apgd("cross_entropy", 100),),
        "ce 20": (apgd("cross_entropy", 20),),
        "pma 20": (apgd(pm, 20),),
        "dlr 20": (apgd("dlr", 20),),
        "pma 100": (apgd(pm, 100),),
        "dlr 20, logits 3 x 20": (apgd("dlr", 20), towards("logits", 3, 20)),
        "dlr 20, malt 3 x 20": (apgd("dlr", 20), towards("malt", 3, 20)),
        "pma 20, malt 3 x 20": (apgd(pm, 20), towards("malt", 3, 20)),
        "pma 20, malt 3 x 50": (apgd(pm, 20), towards("malt", 3, 50)),
        "dlr 20, malt 4 x 100": (apgd("dlr", 20), towards("malt", 4, 100)),
        "dlr 20, malt 9 x 30": (apgd("dlr", 20), towards("malt", 9, 30)),
        "dlr 20, malt fab 3 x 30": (
            apgd("dlr", 20),
            FABT(threat, num_targets=3, target_order="malt", num_steps=30),
        ),
    }
    circles = PGD(threat, num_steps=200, step_size=threat.eps / 4)
    whole = {
        "pgd 200": Suite(threat, attacks=(circles,), batch_size=batch_size),
        "pgd 200, drop 10": Suite(threat, attacks=(circles,), batch_size=batch_size, drop_every=10),
        "FrugalAttack": FrugalAttack(threat, batch_size=batch_size),
        "AutoAttack": AutoAttack(threat, batch_size=batch_size),
    }
    return whole | {
        name: Suite(threat, attacks=attacks, batch_size=batch_size)
        for name, attacks in parts.items()
    }


def main(arguments: Arguments) -> None:
    """Prints one line per network, radius and design."""
    say = teller(arguments.out)
    say(f"batch {arguments.batch_size}, jax {jax.__version__} on {jax.default_backend()}")
    say(
        f"{'network':22}{'of 255':>7}{'clean':>6}  {'design':26}{'standing':>9}{'forward':>10}"
        f"{'backward':>10}{'seconds':>9}"
    )
    for network in arguments.network:
        view, images, labels = load(
            network, arguments.checkpoints, arguments.data_dir, arguments.num_images
        )
        clean = standing_of(view, images, labels).sum()
        for eps in arguments.eps:
            threat = ThreatModel("linf", eps / 255)
            label = f"{network:22}{eps:7g}{clean:6}"
            for name in arguments.designs:
                suite = designs(threat, arguments.batch_size)[name]
                began = time.perf_counter()
                report = suite.report(view, images, labels, key=jax.random.key(arguments.seed))
                seconds = time.perf_counter() - began
                left = standing_of(view, report.images, labels)
                assert np.array_equal(left, report.standing), "a fallen image is classified right"
                assert np.abs(report.images - images).max() <= threat.eps + 1e-6
                num_forward, num_backward = (int(each.sum()) for each in report.passes)
                say(
                    f"{label}  {name:26}{left.sum():9}{num_forward:10,}{num_backward:10,}"
                    f"{seconds:9.0f}"
                )
            if arguments.official:
                seconds, left = official(arguments, view, images, labels, threat)
                say(f"{label}  {'the official code':26}{left:9}{'':20}{seconds:9.0f}")


def official(arguments, view, images, labels, threat):
    """Returns the official code's seconds and how many images it leaves standing."""
    from attack_referees import official as attacked
    from attacks import torch_network

    variables = parts_of("resnet20", arguments.checkpoints)[2]
    began = time.perf_counter()
    found = attacked(
        torch_network(variables), images, labels, threat, "standard",
        batch_size=arguments.batch_size, seed=arguments.seed,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    return seconds, standing_of(view, found, labels).sum()


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
