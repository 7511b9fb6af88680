"""What a verdict costs: images left standing against passes, of several designs of a suite.

python benchmarks/frugal.py --checkpoint FILE --data-dir DIR [--num-images 512] [--out LOG]
    [--designs NAME ...]

FILE is akamaster_resnet20_cifar10.th, DIR a folder of prepared TFDS datasets. Linf, eps = 0.5/255,
the first test images. A forward pass of an image is one, a backward pass one. Every image that
counts as fallen is judged again, apart from the attack.
"""

import dataclasses
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from autoattack_parity import Arguments as Parity
from autoattack_parity import load
from timing import teller

from robust_jax.attacks import APGD, APGDT, FABT, FrugalAttack, Suite, ThreatModel


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the comparison.

    Attributes:
        checkpoint: akamaster_resnet20_cifar10.th.
        data_dir: folder of prepared TFDS datasets.
        num_images: how many test images.
        designs: which; all of them where none is named.
        batch_size: images at a time.
        out: file that the lines are appended to.
    """

    checkpoint: pathlib.Path
    data_dir: str
    num_images: int = 512
    designs: tuple[str, ...] = ()
    batch_size: int = 128
    out: pathlib.Path | None = None


def designs(threat):
    """Returns the attacks of each design, in their order."""

    def apgd(loss, num_steps):
        return APGD(threat, loss=loss, num_steps=num_steps)

    def towards(order, num_targets, num_steps, loss="dlr"):
        return APGDT(
            threat, num_targets=num_targets, target_order=order, num_steps=num_steps, loss=loss
        )

    pm = "probability_margin"
    return {
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


def main(arguments: Arguments) -> None:
    """Prints one line per design."""
    parity = Parity(arguments.checkpoint, arguments.data_dir, num_images=arguments.num_images)
    view, images, labels = load(parity)
    threat = ThreatModel("linf", 0.5 / 255)
    forward = jax.jit(lambda view, images: view(images, key=None))

    def standing(points):
        parts = [points[first : first + 64] for first in range(0, len(points), 64)]
        logits = [forward(view, jnp.asarray(part)) for part in parts]
        return np.argmax(np.concatenate(logits), axis=1) == labels

    say = teller(arguments.out)

    say(
        f"{len(images)} images, clean {standing(images).sum()}, eps=0.5/255, batch "
        f"{arguments.batch_size}, jax {jax.__version__} on {jax.default_backend()}"
    )
    say(f"{'design':26}{'standing':>9}{'forward':>10}{'backward':>10}{'seconds':>9}")
    table = designs(threat)
    for name in arguments.designs or (*table, "FrugalAttack"):
        suite = FrugalAttack(threat, batch_size=arguments.batch_size)
        if name != "FrugalAttack":
            suite = Suite(threat, attacks=table[name], batch_size=arguments.batch_size)
        began = time.perf_counter()
        report = suite.report(view, images, labels, key=jax.random.key(0))
        seconds = time.perf_counter() - began
        left = standing(report.images)
        assert np.array_equal(left, report.standing), "a fallen image is classified right"
        assert np.abs(report.images - images).max() <= threat.eps + 1e-6
        num_forward, num_backward = (int(each.sum()) for each in report.passes)
        say(f"{name:26}{left.sum():9}{num_forward:10,}{num_backward:10,}{seconds:9.0f}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
