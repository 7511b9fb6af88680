"""Transfer between public networks: how many images fall to another network's gradients.

python benchmarks/transfer.py --checkpoints DIR --data-dir DIR [--num-images 128] [--out LOG]

DIR holds public checkpoints: sources are the first members of surrogate1 of the PARL authors'
repository (parl_repo_surrogate1_cifar10_3x_resnet20.pth), targets its third member and
akamaster_resnet20_cifar10.th, which others trained otherwise. First test images, Linf: of those
that member 1 and the target get right clean, the share that the target gets wrong attacked.

Kept in results/transfer.txt (128 images, 4/255, ten steps): to member 3 and to akamaster MIM takes
72 % and 54 % of the images for 20 passes; with NI 75 % and 55 %; with VMI 78 % and 62 % for 220;
from two sources by their mean logits 82 % and 66 % for 40. SI and TI, made for ImageNet, take fewer
here (66 % and 42 %; 63 % and 43 %), and all together no more than VMI. Of 110 images a share is
known to within 9 %.
"""

import dataclasses
import pathlib
import time
from typing import Any

import autoattack_parity
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from timing import teller

from robust_jax.attacks import MIM, ThreatModel, View, bind, ensemble
from robust_jax.interop.torch import import_state_dict, load_state_dict
from robust_jax.models import Classifier, default_layers


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the comparison.

    Attributes:
        checkpoints: folder of public checkpoints.
        data_dir: folder of prepared TFDS datasets.
        num_images: how many test images.
        eps: radius.
        num_steps: of each attack.
        batch_size: images at a time.
        out: file that the lines are appended to.
    """

    checkpoints: pathlib.Path
    data_dir: str
    num_images: int = 128
    eps: float = 4 / 255
    num_steps: int = 10
    batch_size: int = 64
    out: pathlib.Path | None = None


def attacks_of(threat: ThreatModel, num_steps: int) -> dict[str, MIM]:
    """Returns the attacks by name."""
    fields = {
        "MIM": {},
        "+ NI": {"nesterov": True},
        "+ SI": {"num_scales": 5},
        "+ TI": {"kernel_size": 5},
        "+ DI": {"probability": 0.5},
        "+ VMI": {"num_neighbours": 10},
        "+ NI, SI, DI, VMI": {
            "nesterov": True,
            "num_scales": 3,
            "probability": 0.5,
            "num_neighbours": 2,
        },
    }
    return {name: MIM(threat, num_steps=num_steps, **one) for name, one in fields.items()}


def members_of(file: pathlib.Path) -> list[View]:
    """Returns the view of each member of an ensemble, alone."""
    network, normalization, variables = import_state_dict(load_state_dict(file), "parl_3x_resnet20")
    alone = dataclasses.replace(network, num_members=1)
    classifier = Classifier(alone.make(10, default_layers()), normalization)

    def logits(variables, images, *, key):
        del key
        found: Any = classifier.apply(variables, images, train=False, deterministic=True)
        return found.member_logits[0]

    return [
        bind(logits, jax.tree.map(lambda leaf, row=member: leaf[row : row + 1], variables))
        for member in range(network.num_members)
    ]


def main(arguments: Arguments) -> None:
    """Prints one line per attack and sources."""
    other, images, labels = autoattack_parity.load(
        autoattack_parity.Arguments(
            arguments.checkpoints / "akamaster_resnet20_cifar10.th",
            arguments.data_dir,
            num_images=arguments.num_images,
        )
    )
    first, second, third = members_of(
        arguments.checkpoints / "parl_repo_surrogate1_cifar10_3x_resnet20.pth"
    )
    targets = {"member 3": third, "akamaster": other}
    forward = jax.jit(lambda view, images: view(images, key=None))

    def right(view, points):
        parts = [points[row : row + 64] for row in range(0, len(points), 64)]
        logits = [forward(view, jnp.asarray(part)) for part in parts]
        return np.argmax(np.concatenate(logits), axis=1) == labels

    clean = {name: right(view, images) & right(first, images) for name, view in targets.items()}
    say = teller(arguments.out)
    say(
        f"{len(images)} images, Linf eps {255 * arguments.eps:g}/255, {arguments.num_steps} steps, "
        f"jax {jax.__version__}; right clean: "
        + ", ".join(f"{name} {rows.sum()}" for name, rows in clean.items())
    )
    say(f"{'attack':20}{'sources':22}{'member 3':>9}{'akamaster':>10}{'passes':>8}{'seconds':>9}")
    threat = ThreatModel("linf", arguments.eps)
    attacks = attacks_of(threat, arguments.num_steps)
    pair = first, second
    rows = [(name, attack, "member 1", first) for name, attack in attacks.items()]
    rows += [
        (name, attacks[name], "1 and 2, " + said, ensemble(pair, average=average))
        for name, said, average in (
            ("MIM", "logits", "logits"),
            ("MIM", "losses", "gradients"),
            ("+ NI, SI, DI, VMI", "logits", "logits"),
        )
    ]
    for name, attack, sources, view in rows:
        began = time.perf_counter()
        parts = [
            attack.counted(
                view,
                images[row : row + arguments.batch_size],
                labels[row : row + arguments.batch_size],
                key=jax.random.key(0),
                index=np.arange(len(images))[row : row + arguments.batch_size],
            )
            for row in range(0, len(images), arguments.batch_size)
        ]
        found = np.concatenate([part for part, _ in parts])
        seconds, passes = time.perf_counter() - began, parts[0][1]
        assert np.abs(found - images).max() <= threat.eps + 1e-6
        fallen = [
            f"{np.sum(clean[target] & ~right(view, found)) / clean[target].sum():.1%}"
            for target, view in targets.items()
        ]
        price = int(passes.forward[0] + passes.backward[0])
        say(f"{name:20}{sources:22}{fallen[0]:>9}{fallen[1]:>10}{price:8,}{seconds:9.0f}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
