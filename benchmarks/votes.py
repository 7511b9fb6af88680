"""Votes that smoothing takes until it is decided: python benchmarks/votes.py [--out DIR].

* Simulated votes, at rates of the class from .05 to 1: bounds that hold at every look, compared
  by the mean votes until each question is decided, of at most 100,000 at alpha .001;
* a classifier whose votes cost next to nothing (a linear one of scikit-learn's digits, fitted to
  noisy copies): votes, verdicts and seconds beside the fixed 100,000, in floats and rounded;
* --sections resnet20 --checkpoints DIR --data-dir DIR: the public plain ResNet-20 of CIFAR-10, of
  at most 10,000 votes: the fixed 100,000 take minutes an image on two cores.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import public_networks
import timing
from scipy import special
from sklearn.linear_model import LogisticRegression

from robust_jax.certify import (
    Certificate,
    Smoothing,
    VoteSequence,
    average_certified_radius,
    certified_accuracy,
    looks,
)
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.types import View

RATES = (
    0.05, 0.3, 0.42, 0.46, 0.48, 0.49, 0.495, 0.5, 0.505, 0.51, 0.52, 0.54,
    0.58, 0.65, 0.75, 0.85, 0.93, 0.97, 0.99, 0.997, 0.999, 1.0,
)  # fmt: skip
"""Of the simulated class: many near 1/2, where a question is hard."""

QUESTIONS: dict[str, dict[str, float]] = {
    "radius .25": {"radius": 0.25},
    "radius 1": {"radius": 1.0},
    "radius 2": {"radius": 2.0},
    "abstain": {"tolerance": 0.0},
    "within 5 %": {"tolerance": 0.05},
    "within 20 %": {"tolerance": 0.2},
}
"""By heading, fields of `VoteSequence`, of sigma 1."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the benchmark.

    Attributes:
        sections: "bounds", "digits", "resnet20".
        runs: simulated runs of each rate.
        num_samples: votes at most, of simulations and of digits.
        num_digits: images of digits.
        network_samples: votes at most, of the ResNet-20.
        num_images: images of the ResNet-20.
        checkpoints: folder of the public networks.
        data_dir: of TFDS.
        out: folder for the tables.
    """

    sections: tuple[str, ...] = ("bounds", "digits")
    runs: int = 50
    num_samples: int = 100_000
    num_digits: int = 100
    network_samples: int = 10_000
    num_images: int = 16
    checkpoints: pathlib.Path = pathlib.Path("checkpoints")
    data_dir: str = "~/tensorflow_datasets"
    out: pathlib.Path | None = None


class Mixture(VoteSequence):
    """The bound of a martingale instead: likelihoods, mixed by Beta(1/2, 1/2), over that of p.

    By Ville's inequality it reaches 1 / alpha with probability alpha at most, at whatever look.
    """

    def lower(self, counts: np.ndarray, num_votes: int) -> np.ndarray:
        """Returns the rate below the votes' share at which it does."""
        counts = np.asarray(counts, np.float64)
        others = num_votes - counts
        mixed = special.betaln(counts + 0.5, others + 0.5) - special.betaln(0.5, 0.5)
        low, high = np.zeros_like(counts), counts / num_votes
        for _ in range(60):
            middle = (low + high) / 2
            likelihood = special.xlogy(counts, middle) + special.xlog1py(others, -middle)
            rejected = mixed - likelihood >= math.log(1 / self.alpha)
            low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
        return low


def geometric(first: int, growth: float, num_samples: int) -> tuple[int, ...]:
    """Returns numbers of votes, each `growth` times the one before."""
    found = [first]
    while found[-1] < num_samples:
        found.append(min(math.ceil(growth * found[-1]), num_samples))
    return tuple(found)


def simulated(sequence: VoteSequence, runs: int) -> tuple[float, float]:
    """Returns the mean votes and the mean radius of simulated runs at all rates."""
    rng = np.random.default_rng(0)
    rates = np.repeat(RATES, runs)
    counts, before, shown = np.zeros(len(rates), np.int64), 0, None
    radius, votes = np.zeros(len(rates)), np.zeros(len(rates))
    for look, num_votes in enumerate(sequence.at):
        counts = counts + rng.binomial(num_votes - before, rates)
        shown, before = sequence.shown(counts, look, shown), num_votes
        ends = (votes == 0) & sequence.decided(counts, look, shown)
        radius[ends], votes[ends] = sequence.radius_of(shown.lower)[ends], num_votes
    return float(votes.mean()), float(radius.mean())


def bound_rows(arguments: Arguments) -> list[list[str]]:
    """Returns the mean votes of each bound for each question, and the radius at tolerance 0.

    CP is Clopper and Pearson's bound at alpha / K, after 100 votes and by a factor more each time.
    """
    most, runs = arguments.num_samples, arguments.runs
    sides: dict[str, tuple[type[VoteSequence], tuple[int, ...]]] = {
        "one look": (VoteSequence, (most,)),
        **{
            f"CP, x {growth:g}": (VoteSequence, geometric(100, growth, most))
            for growth in (10, 2, 1.25)
        },
        "CP, x 1.1 (ours)": (VoteSequence, looks(most)),
        "mixture, x 1.1": (Mixture, looks(most)),
        "mixture, x 1.02": (Mixture, geometric(100, 1.02, most)),
    }
    rows = []
    for name, (kind, at) in sides.items():
        found = [simulated(kind(at, 0.001, 1.0, **asked), runs) for asked in QUESTIONS.values()]
        (radius,) = (found[list(QUESTIONS).index("abstain")][1],)
        rows.append([name, str(len(at)), *(f"{votes:.0f}" for votes, _ in found), f"{radius:.3f}"])
    return rows


def linear_digits(sigma: float) -> tuple[View, np.ndarray, np.ndarray]:
    """Returns a linear classifier of noisy digits, the test images and their labels."""
    splits, rng = open_data(DataConfig(Digits())), np.random.default_rng(0)
    (images, labels), (test, test_labels) = (
        (np.asarray(split.arrays[0], np.float32) / np.float32(255), np.asarray(split.arrays[1]))
        for split in (splits.train, splits.test)
    )
    images, labels = np.repeat(images, 10, axis=0), np.repeat(labels, 10)
    noisy = (images + sigma * rng.normal(size=images.shape)).reshape(len(images), -1)
    fitted = LogisticRegression(C=0.1, max_iter=100).fit(noisy, labels)

    def scores(weights, images, *, key):
        del key
        return images.reshape(len(images), -1) @ weights[0] + weights[1]

    weights = jnp.asarray(fitted.coef_.T, jnp.float32), jnp.asarray(fitted.intercept_, jnp.float32)
    return jax.tree_util.Partial(scores, weights), test, test_labels


def certified(
    certifiers: Mapping[str, Smoothing], predict: View, images: np.ndarray
) -> Iterator[tuple[str, Certificate, float]]:
    """Yields for each certifier its certificates and the seconds of an image, compiled before."""
    for name, certifier in certifiers.items():
        certifier(predict, images[:1], key=jax.random.key(1))
        start = time.perf_counter()
        found = certifier(predict, images, key=jax.random.key(0))
        yield name, found, (time.perf_counter() - start) / len(images)


def verdict_rows(
    load: Callable[[float], tuple[View, np.ndarray, np.ndarray]],
    sizes: Mapping[float, float],
    num_samples: int,
    batch_size: int,
    *,
    whole: bool,
) -> list[list[str]]:
    """Returns the rows of a model: each certifier beside the fixed votes.

    Args:
        load: gives the model of a sigma, images and labels.
        sizes: by sigma, the radius that is asked.
        num_samples: of the fixed votes.
        batch_size: copies in a pass.
        whole: with the questions that take most of the votes, and with rounded noise?
    """
    rows = []
    for sigma, radius in sizes.items():
        predict, images, labels = load(sigma)
        fixed = Smoothing(sigma, num_samples=num_samples, batch_size=batch_size)
        certifiers = {
            "fixed": fixed,
            f"radius {radius:g}": dataclasses.replace(fixed, radius=radius),
        }
        if whole:
            certifiers |= {
                f"within {share:.0%}": dataclasses.replace(fixed, tolerance=share)
                for share in (0.05, 0.2)
            }
            certifiers |= {
                f"{name}, rounded": dataclasses.replace(certifiers[name], noise="rounded")
                for name in ("fixed", f"radius {radius:g}")
            }
        reference = None
        for name, found, seconds in certified(certifiers, predict, images):
            reference = found if reference is None else reference
            reached = [np.where(one.radius >= radius, one.label, -1) for one in (found, reference)]
            (share,) = certified_accuracy(found, labels, [radius])
            votes = found.num_votes
            assert votes is not None
            rows.append(
                [
                    f"{sigma:g}",
                    name,
                    f"{votes.mean():.0f}",
                    f"{np.median(votes):.0f}",
                    f"{radius:g}: {100 * share:.0f} %",
                    f"{np.sum(reached[0] != reached[1])}",
                    f"{np.sum((found.label < 0) != (reference.label < 0))}",
                    f"{average_certified_radius(found, labels):.3f}",
                    f"{seconds:.2f}",
                ]
            )
    return rows


HEADINGS = [
    "sigma", "votes until", "votes", "median", "certified", "other", "abstains", "radius", "s",
]  # fmt: skip
"""Mean and median of the votes; the share certified at a radius; of how many images the fixed votes
say otherwise at that radius, and of how many abstentions; mean radius; seconds an image."""


def main(arguments: Arguments) -> None:
    """Measures, prints and writes the tables."""

    def write(name: str, title: str, headings: list[str], rows: list[list[str]]) -> None:
        timing.report(title, headings, rows, arguments.out / name if arguments.out else None)

    most = arguments.num_samples
    if "bounds" in arguments.sections:
        write(
            "votes_bounds.txt",
            f"Mean votes of {most} until decided, simulated at rates .05 to 1",
            ["bound", "looks", *QUESTIONS, "mean radius"],
            bound_rows(arguments),
        )

    def digits(sigma: float) -> tuple[View, np.ndarray, np.ndarray]:
        predict, images, labels = linear_digits(sigma)
        return predict, images[: arguments.num_digits], labels[: arguments.num_digits]

    def resnet(sigma: float) -> tuple[View, np.ndarray, np.ndarray]:
        del sigma
        data_dir = str(pathlib.Path(arguments.data_dir).expanduser())
        return public_networks.load(
            "resnet20", arguments.checkpoints, data_dir, arguments.num_images
        )

    if "digits" in arguments.sections:
        write(
            "votes_digits.txt",
            f"A linear classifier of {arguments.num_digits} digits, votes of {most}",
            HEADINGS,
            verdict_rows(digits, {0.25: 0.25, 0.5: 0.5}, most, 2_000, whole=True),
        )
    if "resnet20" in arguments.sections:
        sizes, network_samples = {0.12: 0.1, 0.25: 0.25}, arguments.network_samples
        write(
            "votes_resnet20.txt",
            f"Plain ResNet-20, {arguments.num_images} images, votes of {network_samples}",
            HEADINGS,
            verdict_rows(resnet, sizes, network_samples, 256, whole=False),
        )


if __name__ == "__main__":
    import tyro  # only the command line needs it

    main(tyro.cli(Arguments, description=__doc__))
