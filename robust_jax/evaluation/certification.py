"""Certificates of an evaluation: made of few images at once, kept by lines, gone on with later.

`certificates/NAME.jsonl` holds a line per image: its row, label, certified class (-1: abstained),
radius, the number of votes that tested it (None of bounds, and in formats before 7) and, where the
certifier has one, smallest margin. `NAME@OTHER` are another checkpoint's.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from robust_jax import formats, rng
from robust_jax.attacks import bind, losses
from robust_jax.certify import (
    Certificate,
    Margins,
    Smoothing,
    average_certified_radius,
    average_certified_radius_interval,
    certified_accuracy,
    certified_accuracy_interval,
)
from robust_jax.data import Split, eval_batches
from robust_jax.evaluation.records import append_lines
from robust_jax.evaluation.summary import CertificateSummary
from robust_jax.methods import Method
from robust_jax.methods.base import MethodView
from robust_jax.methods.deployment import MembersView
from robust_jax.runtime.compilation import Precision, at_precision, jitted
from robust_jax.runtime.sharding import replicated
from robust_jax.types import Variables

Certificates = dict[str, tuple[Certificate, np.ndarray]]
"""By name, with the images' labels."""


Deterministic = Callable[[Variables, Array], Array]
"""A method's view without its key: (variables, images) -> scores."""


FOLDER = "certificates"
"""Of an evaluation's directory: where they are kept, and before whose names their time stands."""


@runtime_checkable
class Certify(Protocol):
    """Returns the certificates of images, of margins those of the bounds alone."""

    def __call__(
        self,
        images: Float[Array, "b h w k"],
        labels: Int[Array, " b"],
        /,
        *,
        key: Key[Array, ""],
        index: Int[np.ndarray, " b"],
    ) -> Certificate: ...


def certify(
    certifiers: Mapping[str, Smoothing | Margins],
    method: Method,
    variables: Variables,
    split: Split,
    rows: np.ndarray,
    mesh: Mesh,
    *,
    precision: Precision,
    seed: int,
    directory: pathlib.Path,
    other: str | None = None,
    on_image: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Certificates:
    """Returns the certificates of some images.

    Args:
        certifiers: by the name that the report prints.
        method: what is certified: `predict`. By smoothing, its own randomness is part of it; by
            margins, its vote is bounded from the members' logits, or stands beside the mean of
            those: an image that `predict` does not have right is then not certified either.
        variables: its arrays, replicated over the mesh.
        split: the examples.
        rows: which of them are certified.
        mesh: splits the noisy copies of each image.
        precision: of products of float32 where the vote decides; bounds are always float32.
        seed: root of the noise.
        directory: where certificates/ is kept and gone on with.
        other: name of the checkpoint, where it is not the one that is judged.
        on_image: told (certifier, images done, images) at the start, and after each, or some at
            once.
    """
    decide = jitted(at_precision(_decision(method), precision))
    root = rng.stream(jax.random.key(seed), "certification")
    certificates = {}
    for title, certifier in certifiers.items():
        name = with_source(title, other)
        file = directory / FOLDER / f"{name}.jsonl"
        lines = lines_of_first(file, rows)
        make = certifying(certifier, method, variables, mesh)
        key = rng.stream(root, name)
        count = min(certifier.images_at_once, max(1, len(rows) - len(lines)))
        size = -(-count // mesh.size) * mesh.size
        if len(lines) < len(rows):
            on_image(name, len(lines), len(rows))
        for start in range(len(lines), len(rows), count):
            began = time.perf_counter()
            chosen = rows[start : start + count].astype(np.int32)
            (batch,) = eval_batches(split, size, chosen, replicated(mesh))
            images, labels = batch.image[:count], batch.label[:count]
            # Rows that only fill the batch take part, so that every batch has one program.
            index = np.asarray(batch.index)[:count]
            found = make(images, labels, key=key, index=index)
            if isinstance(certifier, Margins):
                found = found.only(
                    found.label == np.asarray(decide(variables, batch.image))[:count]
                )
            made = _lines(chosen, np.asarray(labels), found)
            append_lines(file, made)
            lines += made
            took = {"seconds": time.perf_counter() - began, "num_done": len(lines)}
            append_lines(directory / "seconds.jsonl", [{"name": f"{FOLDER}/{name}", **took}])
            on_image(name, len(lines), len(rows))
        votes = [line["num_votes"] for line in lines]
        certificate = Certificate(
            np.asarray([line["certified"] for line in lines], np.int32),
            np.asarray([line["radius"] for line in lines], np.float64),
            np.asarray([line["margin"] for line in lines], np.float64)
            if isinstance(certifier, Margins) else None,
            None if None in votes else np.asarray(votes, np.int64),
        )  # fmt: skip
        labels = np.asarray([line["label"] for line in lines], np.int32)
        certificates[name] = certificate, labels
    return certificates


def _lines(rows: np.ndarray, labels: np.ndarray, found: Certificate) -> list[formats.Tree]:
    """Returns the lines of some images' certificates; those behind them only filled a batch."""
    votes, margins = found.num_votes, found.margin
    return [
        {
            "index": int(row),
            "label": int(labels[place]),
            "certified": int(found.label[place]),
            "radius": float(found.radius[place]),
            "num_votes": None if votes is None else int(votes[place]),
            **({} if margins is None else {"margin": float(margins[place])}),
        }
        for place, row in enumerate(rows)
    ]


def certifying(
    certifier: Smoothing | Margins, method: Method, variables: Variables, mesh: Mesh | None = None
) -> Certify:
    """Returns what certifies images, see `certify`.

    Certificates of margins are of the bounds alone: `predict` has still to be asked of the images.
    """
    if isinstance(certifier, Margins):
        vote, scores = method.vote, members_apart(method)
        if certifier.of == "mean_logit" or vote == "mean_logit":
            vote, scores = None, mean_logits(method)
        logits = jax.tree_util.Partial(scores, variables)
        return lambda images, labels, *, key, index: certifier(logits, images, labels, vote=vote)
    predict, draws_per = bind(method.predict, variables), "row"
    if method.stochastic:
        draws_per = method.draws_per
    return lambda images, labels, *, key, index: certifier(
        predict, images, key=key, index=index, mesh=mesh, draws_per=draws_per
    )


def names(titles: Iterable[str], others: Iterable[str]) -> list[str]:
    """Returns the names of all certificates: of the model, and of other checkpoints."""
    titles = list(titles)
    return [with_source(title, other) for other in (None, *others) for title in titles]


def with_source(title: str, other: str | None) -> str:
    """Returns what a certificate of another checkpoint is called."""
    return title if other is None else f"{title}@{other}"


def mean_logits(method: Method) -> Deterministic:
    """Returns the mean of the members' logits [b c]."""
    members = members_apart(method)
    return lambda variables, images: jnp.mean(members(variables, images), axis=0)


def members_apart(method: Method) -> Deterministic:
    """Returns the members' logits [m b c], of which each is computed alone where one can be.

    A bound of one member's values is then none of all members' (16 times quicker of a
    BatchEnsemble of four).
    """
    view = method.view("members")
    if not isinstance(view, MembersView):
        return _without_key(view)

    def apart(variables: Variables, images: Array) -> Array:
        together = jax.eval_shape(functools.partial(view, key=None), variables, images)
        return jnp.stack(
            [view.member(variables, images, n, key=None) for n in range(together.shape[0])]
        )

    return apart


def _without_key(view: MethodView) -> Deterministic:
    return lambda variables, images: view(variables, images, key=None)


def _decision(method: Method) -> Deterministic:
    return lambda variables, images: losses.decided(method.predict(variables, images, key=None))


def describe(certifier: Smoothing | Margins) -> str:
    """Returns what a certifier certifies, in words."""
    if isinstance(certifier, Smoothing):
        drawn = "" if certifier.noise == "float" else " rounded to 1/255"
        asked = ""
        if certifier.radius is not None:
            asked = f", votes until decided at radius {certifier.radius:.4g}"
        if certifier.tolerance is not None:
            asked = f", votes until decided within {certifier.tolerance:.4g} of the radius"
        return f"majority under noise of sigma {certifier.sigma:.4g}{drawn}, l2{asked}"
    rule = "the vote" if certifier.of == "vote" else "the mean logit, where the vote is right"
    slopes = "" if certifier.ascent is None else " of optimised slopes"
    return f"{rule}, by {certifier.bound} bounds{slopes}, {certifier.norm} eps {certifier.eps:.4g}"


def summarize(
    certifier: Smoothing | Margins, certificate: Certificate, labels: np.ndarray
) -> CertificateSummary:
    """Returns the share certified as their class at radius 0, that of abstentions, mean radius.

    With them the 95 % intervals of the first and the last, and the votes.
    """
    votes, ours = certificate.num_votes, (certificate, labels)
    (accuracy,) = certified_accuracy_interval(*ours, [0.0]).tolist()
    return {
        "what": describe(certifier),
        "num_images": len(labels),
        "certified_accuracy": float(certified_accuracy(*ours, [0.0])[0]),
        "abstained": float(np.mean(certificate.label < 0)),
        "average_certified_radius": average_certified_radius(*ours),
        "intervals": {
            "certified_accuracy": accuracy,
            "average_certified_radius": (
                list(average_certified_radius_interval(*ours)) if len(labels) > 1 else None
            ),
        },
        "num_votes": None if votes is None else float(np.mean(votes)),
        "most_votes": certifier.num_samples if isinstance(certifier, Smoothing) else None,
    }


def lines_of_first(file: pathlib.Path, rows: np.ndarray) -> list[formats.Tree]:
    """Returns the whole lines of a file, which must be of the first rows in their order."""
    if not file.is_file():
        return []
    lines = formats.read_lines("certificate", file, torn="the end")
    wanted = lines[: len(rows)]
    for number, line in enumerate(wanted, start=1):
        missing = {"index", "label", "certified", "radius", "num_votes"} - line.keys()
        if missing:
            raise ValueError(f"Expected {str(file)!r}, line {number}, to have {sorted(missing)}.")
    if [line["index"] for line in wanted] != rows[: len(wanted)].tolist():
        raise ValueError(f"Expected {str(file)!r} to hold this evaluation's images in order.")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"read {file.name}")
    if jax.process_index() == 0:
        formats.write_lines(file, lines)
    return wanted
