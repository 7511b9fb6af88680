"""One ensemble certified as it decides: python benchmarks/deployed_rules.py --checkpoints DIR ...

CROWN's margins of the three members of the public ensembles, on the first CIFAR-10 test images at a
small radius, and what follows of them for each rule of deciding together: the majority, the mean of
the probabilities, the mean of the logits. Beside these the bound of the mean logit itself, as one
network, and the images that stand to APGD by three losses against the rule's own view. A line per
image goes to the log, from which a run that was stopped goes on.
"""

import dataclasses
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import public_networks
import timing
from jax.tree_util import Partial

from robust_jax import metrics, voting
from robust_jax.attacks import APGD, ThreatModel, straight_through
from robust_jax.certify import crown_margins, smallest_margin
from robust_jax.models import Classifier, default_layers
from robust_jax.types import Variables

RULES: dict[str, voting.Vote] = {
    "majority": "majority_lowest_class",
    "mean probability": "mean_probability",
    "mean logit": "mean_logit",
}

ALONE = "mean logit, as one network"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the benchmark.

    Attributes:
        checkpoints: folder of the public files.
        data_dir: folder of the prepared TFDS datasets.
        names: ensembles.
        eps: Linf radius in 1/255.
        num_images: test images, from the first.
        out: folder for the table and the log.
    """

    checkpoints: pathlib.Path
    data_dir: pathlib.Path
    names: tuple[str, ...] = ("surrogate1", "parl5")
    eps: float = 0.05
    num_images: int = 24
    out: pathlib.Path = pathlib.Path("runs/deployed_rules")


def members_of(name: str, checkpoints: pathlib.Path) -> Partial:
    """Returns an ensemble's function from images to its members' logits [m b c]."""
    network, normalization, variables = public_networks.parts_of(name, checkpoints)
    classifier = Classifier(network.make(10, default_layers()), normalization)

    def members(variables: Variables, images: jax.Array) -> jax.Array:
        outputs = classifier.apply(variables, images, train=False, deterministic=True)
        return outputs.member_logits

    return Partial(members, variables)


def certified(
    name: str, arguments: Arguments, log: pathlib.Path, images: np.ndarray, labels: np.ndarray
) -> list[dict]:
    """Returns the log's lines of an ensemble, the missing ones made and written."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    found = [one for one in lines if (one["network"], one["eps"]) == (name, arguments.eps)]
    members = members_of(name, arguments.checkpoints)
    by_image = Partial(lambda members, x: jnp.moveaxis(members(x), 0, 1), members)
    mean = Partial(lambda members, x: jnp.mean(members(x), axis=0), members)
    for number in range(len(found), arguments.num_images):
        image, label = images[number : number + 1], labels[number : number + 1]
        begin = time.perf_counter()
        eps = arguments.eps / 255
        margins = crown_margins(by_image, image, label, eps)
        middle = time.perf_counter()
        bounds = {rule: voting.margins(margins, label, vote) for rule, vote in RULES.items()}
        bounds[ALONE] = crown_margins(mean, image, label, eps)
        line = {
            "network": name, "eps": arguments.eps, "image": number, "label": int(label[0]),
            "members": [round(float(each), 4) for each in jnp.min(
                jnp.where(jnp.arange(10) == label[0], jnp.inf, margins[0]), axis=1)],
            "margins": {
                rule: round(float(smallest_margin(each, label)[0]), 4)
                for rule, each in bounds.items()
            },
            "seconds": round(middle - begin, 2), "alone": round(time.perf_counter() - middle, 2),
        }  # fmt: skip
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        found.append(line)
    return found[: arguments.num_images]


def standing(
    name: str, rule: str, arguments: Arguments, images: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """Returns the shares of images that a rule has right, and that stand to APGD by three losses.

    The majority's gradient is that of the mean probability.
    """
    members = members_of(name, arguments.checkpoints)

    def decided(vote: voting.Vote) -> Partial:
        def scores(members: Partial, images: jax.Array, *, key: jax.Array) -> jax.Array:
            del key
            return voting.scores(members(images), vote)

        return Partial(scores, members)

    view = decided(RULES[rule])
    if rule == "majority":
        view = straight_through(view, decided("mean_probability"))
    stands = public_networks.standing_of(view, images, labels)
    right = float(np.mean(stands))
    for loss in ("cross_entropy", "dlr", "margin"):
        attack = APGD(ThreatModel("linf", arguments.eps / 255), loss=loss)
        adversarial = jax.jit(attack)(view, images, labels, key=jax.random.key(0))
        stands &= public_networks.standing_of(view, np.asarray(adversarial), labels)
    return right, float(np.mean(stands))


def main(arguments: Arguments) -> None:
    """Completes the log, prints and writes the table."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "deployed_rules.jsonl"
    rows = []
    for name in arguments.names:
        _, images, labels = public_networks.load(
            name, arguments.checkpoints, str(arguments.data_dir), arguments.num_images
        )
        lines = certified(name, arguments, log, images, labels)
        for rule in (*RULES, ALONE):
            margins = np.asarray([line["margins"][rule] for line in lines])
            verified = int(np.sum(margins > 0))
            low, high = (100 * bound for bound in metrics.interval(verified, len(lines)))
            same = RULES.get(rule) and standing(name, rule, arguments, images, labels)
            rows.append(
                [
                    name,
                    rule,
                    f"{100 * same[0]:.1f}" if same else "",
                    f"{100 * same[1]:.1f}" if same else "",
                    f"{100 * verified / len(lines):.1f} ({low:.1f} to {high:.1f})",
                    f"{np.median(margins):.3f}",
                    f"{np.median([line['seconds' if same else 'alone'] for line in lines]):.1f}",
                ]
            )
    headings = [
        "ensemble", "decides by", "right %", "stands to APGD %", "certified % (95 %)",
        "median margin", "s an image",
    ]  # fmt: skip
    title = f"Margins by CROWN, {arguments.num_images} images, eps {arguments.eps:g}/255"
    timing.report(title, headings, rows, arguments.out / "deployed_rules.txt")


if __name__ == "__main__":
    import tyro  # only the command line needs it

    main(tyro.cli(Arguments, description=__doc__))
