"""How long a decision takes: REGroup's beside its network's, or any two views of a model."""

import dataclasses
import time
from collections.abc import Callable
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Array, Key

from robust_jax import rng
from robust_jax.evaluation.measures.base import Found, Measure, Subject
from robust_jax.runtime.compilation import jitted
from robust_jax.runtime.wording import text
from robust_jax.types import Variables


@dataclasses.dataclass(frozen=True)
class Latency(Measure):
    """Seconds of one call of each view, compiled, on the device at hand.

    Images lie on the device, a call counts until its result does, and the calls of the views take
    turns, so that what else the machine does meets all of them. Median and quartiles are reported;
    of another machine, or of one that is busy, only the ratios compare.

    Attributes:
        num_examples: images; each call takes `batch_size` of them, in turn.
        views: of the method; "decision" is the deployed rule.
        batch_size: images to a call.
        num_repeats: calls of each view that are timed, after one that is not.

    References:
        Table 6 of REGroup's paper (one image at a time).

    Example:
        >>> from robust_jax.evaluation import Evaluation
        >>> from robust_jax.evaluation.measures import Latency
        >>> wanted = Evaluation(measures={"seconds": Latency(views=("decision", "surrogate"))})
        >>> wanted.measures["seconds"].section
        'Seconds to a decision'
    """

    section: ClassVar[str] = "Seconds to a decision"

    views: tuple[str, ...] = ("decision",)
    batch_size: int = 1
    num_repeats: int = 50

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that make no sense."""
        super().__post_init__()
        for name in ("batch_size", "num_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 1.")
        if not self.views:
            raise ValueError("Expected views=() to name at least one.")

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: images for one call."""
        for name in self.views:
            subject.method.view(name)  # raises where there is none
        few = len(subject.images) < self.batch_size
        return f"{self.batch_size} images (it is given {len(subject.images)})" if few else None

    def __call__(self, subject: Subject) -> Found:
        """Returns median and quartiles of the seconds of each view."""
        runs = {name: jitted(self._call(subject, name)) for name in self.views}
        starts = range(0, len(subject.images) - self.batch_size + 1, self.batch_size)
        batches = [subject.images[start : start + self.batch_size] for start in starts]
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(-1, self.num_repeats):
            given = batches[number % len(batches)], rng.stream(subject.key, "latency", number + 1)
            images, key = jax.block_until_ready(given)  # no view waits for either
            for name, run in runs.items():
                began = time.perf_counter()
                jax.block_until_ready(run(subject.variables, images, key))
                if number >= 0:  # the first call compiles
                    seconds[name].append(time.perf_counter() - began)
        quartiles = {n: np.percentile(s, (50, 25, 75)).tolist() for n, s in seconds.items()}
        numbers = {
            "device": jax.devices()[0].device_kind,
            "batch_size": self.batch_size,
            "seconds": {
                name: dict(zip(("median", "lower", "upper"), three, strict=True))
                for name, three in quartiles.items()
            },
        }
        lines = tuple(
            (text(name), f"{1000 * m:.3g} ms <small>{1000 * a:.3g} to {1000 * b:.3g}</small>")
            for name, (m, a, b) in quartiles.items()
        )
        about = (
            f"One call on {self.batch_size} image(s), compiled, on {text(numbers['device'])}: "
            f"median and quartiles of {self.num_repeats}."
        )
        return Found(self.section, numbers, lines, about=about)

    @staticmethod
    def _call(subject: Subject, name: str) -> Callable[[Variables, Array, Key[Array, ""]], Array]:
        view = subject.method.view(name)
        return lambda variables, images, key: view(variables, images, key=key)
