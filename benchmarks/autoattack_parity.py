"""Our AutoAttack against the official code on a public CIFAR-10 network: images left standing.

python benchmarks/autoattack_parity.py --checkpoint FILE --data-dir DIR [--official] [--out LOG]
    [--norm l1 --num-images 128]

FILE is akamaster_resnet20_cifar10.th (github.com/akamaster/pytorch_resnet_cifar10), DIR a folder
of prepared TFDS datasets. The first test images, in Linf with eps = 0.5/255 or in L1 with .8, where
about half of them fall. With --official the official
code (pyautoattack) runs beside ours, on the same JAX network through a bridge; without it the
numbers to compare with are those measured once with the official code on a PyTorch copy of the
network (512 images, seed 0). Every image that we count as fallen is judged again, apart from the
attack. The whole suite takes more than two hours of a CPU core; "prefix" is its beginning (APGD-CE
and the three likeliest of APGD-T's nine targets, with the suite's own keys). What follows can only
take from the images that this leaves, so its count is an upper bound of the suite's. Needs
the extra: pip install "robust_jax[torch]", and pyautoattack for --official.
"""

import dataclasses
import pathlib
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from timing import compiled_runs, teller

from robust_jax.attacks import APGD, APGDT, FABT, AutoAttack, Square, ThreatModel, bind
from robust_jax.data import TFDS
from robust_jax.interop.torch import import_state_dict, load_state_dict
from robust_jax.models import Classifier, default_layers

MEASURED = {
    "apgd_ce": 280,
    "apgd_dlr": 283,
    "apgd_t": 279,
    "fab_t": 286,
    "square": 456,
    "standard": 277,
    "prefix": 277,
}
"""Official code: images standing of the first 512 (Square alone with 1,000 queries; beside "prefix"
the whole suite)."""

EPS = {"linf": 0.5 / 255, "l1": 0.8}
"""At which about half of the images fall."""

ALLOWED = {"standard": 1, "prefix": 1}
"""How many more images than theirs ours may leave standing; otherwise two."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the comparison.

    Attributes:
        checkpoint: akamaster_resnet20_cifar10.th.
        data_dir: folder of prepared TFDS datasets.
        norm: of the ball.
        num_images: how many test images.
        attacks: which of apgd_ce, apgd_dlr, apgd_t, fab_t, square, standard, prefix.
        num_queries: of Square where it runs alone.
        batch_size: images at a time, for both.
        official: run the official code too?
        out: file that the lines are appended to.
    """

    checkpoint: pathlib.Path
    data_dir: str
    norm: Literal["linf", "l1"] = "linf"
    num_images: int = 512
    attacks: tuple[str, ...] = ("apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square", "standard")
    num_queries: int = 1000
    batch_size: int = 128
    official: bool = False
    out: pathlib.Path | None = None


def load(arguments: Arguments):
    """Returns the view of the network, the images and their labels."""
    network, normalization, variables = import_state_dict(
        load_state_dict(arguments.checkpoint), "resnet20_akamaster"
    )
    classifier = Classifier(network.make(10, default_layers()), normalization)

    def logits(variables, images, *, key):
        del key
        return classifier.apply(variables, images, train=False, deterministic=True).logits

    test = TFDS(name="cifar10", data_dir=arguments.data_dir).load().test
    rows = [test[row] for row in range(arguments.num_images)]
    images = np.stack([image for image, _ in rows]).astype(np.float32) / np.float32(255)
    return bind(logits, variables), images, np.array([label for _, label in rows], np.int32)


def main(arguments: Arguments) -> None:
    """Prints one line per attack."""
    view, images, labels = load(arguments)
    threat = ThreatModel(arguments.norm, EPS[arguments.norm])
    alone = {
        "apgd_ce": (APGD(threat),),
        "apgd_dlr": (APGD(threat, loss="dlr"),),
        "apgd_t": (APGDT(threat, num_targets=5 if threat.norm == "l1" else 9),),
        "fab_t": (FABT(threat),),
        "square": (Square(threat, num_queries=arguments.num_queries),),
        "prefix": (APGD(threat), APGDT(threat, num_targets=3)),
    }
    forward = jax.jit(lambda view, images: view(images, key=None))

    def right_on(points):
        parts = [points[first : first + 64] for first in range(0, len(points), 64)]
        logits = [forward(view, jnp.asarray(part)) for part in parts]
        return np.argmax(np.concatenate(logits), axis=1) == labels

    say = teller(arguments.out)

    say(
        f"{len(images)} images, clean {right_on(images).sum()}, {threat}, batch "
        f"{arguments.batch_size}, Square alone {arguments.num_queries} queries, "
        f"jax {jax.__version__} on {jax.default_backend()}"
    )
    for name in arguments.attacks:
        compiled = compiled_runs()
        fields = {"version": "custom", "attacks": alone[name]} if name in alone else {}
        suite = AutoAttack(threat, batch_size=arguments.batch_size, **fields)
        began = time.perf_counter()
        report = suite.report(view, images, labels, key=jax.random.key(0))
        ours, seconds = right_on(report.images), time.perf_counter() - began
        far = float(np.max(threat.distance(jnp.asarray(report.images), jnp.asarray(images))))
        assert np.array_equal(ours, report.standing), "a fallen image is classified right"
        # As `ThreatModel` states the rounding.
        slack = 1e-5 * max(1, threat.eps) if threat.norm == "l1" else 1e-6
        assert far <= threat.eps + slack, f"distance {far}"
        line = (
            f"{name:9} ours {ours.sum():4} in {seconds:6.0f} s, "
            f"{compiled_runs() - compiled} compilations"
        )
        if len(report.stages) > 1:
            steps = ", ".join(
                f"{type(stage.attack).__name__} {stage.num_standing} ({stage.seconds:.0f} s)"
                for stage in report.stages
            )
            line += f" [{steps}]"
        measured = len(images) == 512 and threat.norm == "linf"
        theirs = MEASURED[name] if measured else None
        if theirs is not None:
            line += f"; official code on PyTorch, measured before: {theirs}"
        if arguments.official and name != "prefix":
            from attack_referees import TorchView, official

            began = time.perf_counter()
            found = official(
                TorchView(view),
                images,
                labels,
                threat,
                [name] if name in alone else name,
                num_queries=arguments.num_queries if name in alone else 5000,
                batch_size=arguments.batch_size,
            )
            theirs = right_on(found).sum()
            line += f"; official code here {theirs} in {time.perf_counter() - began:6.0f} s"
        if theirs is not None:
            # In L1 two, for the suite too.
            allowed = ALLOWED.get(name, 2) if threat.norm == "linf" else 2
            within = ours.sum() <= theirs + allowed
            line += "; within the bound" if within else "; MORE THAN ALLOWED"
        say(line + "".join(f"; warning: {text}" for text in report.warnings))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
