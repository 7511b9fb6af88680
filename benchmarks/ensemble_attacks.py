"""MORA beside APGD on a public ensemble of three ResNet-20: images left standing.

python benchmarks/ensemble_attacks.py --checkpoint FILE --data-dir DIR [--rule voting] [--out LOG]

FILE is surrogate1 of the PARL authors' repository (parl_repo_surrogate1_cifar10_3x_resnet20.pth),
DIR a folder of prepared TFDS datasets; the first test images. APGD-CE sees the mean softmax, MORA
the members; both have the same steps from the same random start, and both are judged by the rule.
MORA must not leave more images standing. Needs the extra: pip install "robust_jax[torch]".

128 images, 100 steps, rule softmax, on one CPU core (clean 121): eps .002 APGD-CE 72, MORA 71;
eps .003 39 and 37; eps .01, the smallest of the PARL paper, 0 and 0. Rule voting, 50 steps (clean
119): eps .003 34 and 30.
"""

import dataclasses
import pathlib
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from timing import teller

from robust_jax.attacks import APGD, MORA, ThreatModel, bind, ensembles, over_dataset
from robust_jax.data import TFDS
from robust_jax.interop.torch import import_state_dict, load_state_dict
from robust_jax.models import Classifier, default_layers


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the comparison.

    Attributes:
        checkpoint: of three ResNet-20 in the layout of the PARL authors' repository.
        data_dir: folder of prepared TFDS datasets.
        num_images: how many test images.
        num_steps: of both attacks.
        eps: radii of the Linf balls. At the default APGD leaves about a third of the images.
        rule: how the ensemble decides.
        batch_size: images at a time.
        seed: of the starts.
        out: file that the lines are appended to.
    """

    checkpoint: pathlib.Path
    data_dir: str
    num_images: int = 128
    num_steps: int = 100
    eps: tuple[float, ...] = (0.003,)
    rule: Literal["softmax", "voting"] = "softmax"
    batch_size: int = 64
    seed: int = 0
    out: pathlib.Path | None = None


def load(arguments: Arguments):
    """Returns the function of variables to the members' logits, variables, images, labels."""
    network, normalization, variables = import_state_dict(
        load_state_dict(arguments.checkpoint), "parl_3x_resnet20"
    )
    classifier = Classifier(network.make(10, default_layers()), normalization)

    def members(variables, images, *, key):
        del key
        outputs: Any = classifier.apply(variables, images, train=False, deterministic=True)
        return outputs.member_logits

    test = TFDS(name="cifar10", data_dir=arguments.data_dir).load().test
    images, labels = zip(*(test[row] for row in range(arguments.num_images)), strict=True)
    images = np.stack(images).astype(np.float32) / np.float32(255)
    return members, variables, images, np.array(labels, np.int32)


def main(arguments: Arguments) -> None:
    """Prints a line per radius and attack."""
    members, variables, images, labels = load(arguments)

    def mean_softmax(variables, images, *, key):
        return ensembles.decide(members(variables, images, key=key), "softmax")

    decide = jax.jit(
        lambda variables, images: ensembles.decide(
            members(variables, images, key=None), arguments.rule
        )
    )

    def standing(points):
        parts = [points[first : first + 64] for first in range(0, len(points), 64)]
        scores = [decide(variables, jnp.asarray(part)) for part in parts]
        return int(np.sum(np.argmax(np.concatenate(scores), axis=1) == labels))

    say = teller(arguments.out)

    say(
        f"{len(images)} images, clean {standing(images)}, {arguments.num_steps} steps, rule "
        f"{arguments.rule}, jax {jax.__version__} on {jax.default_backend()}"
    )
    for eps in arguments.eps:
        threat, left = ThreatModel("linf", eps), {}
        for name, attack, view in (
            ("APGD-CE", APGD(threat, num_steps=arguments.num_steps), mean_softmax),
            ("MORA", MORA(threat, num_steps=arguments.num_steps, rule=arguments.rule), members),
        ):
            began = time.perf_counter()
            found = over_dataset(
                attack,
                bind(view, variables),
                images,
                labels,
                key=jax.random.key(arguments.seed),
                batch_size=arguments.batch_size,
                progress=False,
            )
            left[name] = standing(found)
            seconds = time.perf_counter() - began
            say(f"eps {eps:.4g} {name:8} leaves {left[name]:4} standing ({seconds:.0f} s)")
        assert left["MORA"] <= left["APGD-CE"], "MORA leaves more images standing than APGD-CE"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
