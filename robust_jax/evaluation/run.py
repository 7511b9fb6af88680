"""The library's one way to judge a model: attacked, certified, measured, checked, summed up."""

import pathlib
import shlex
import sys
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from robust_jax import formats
from robust_jax.certify import Certificate
from robust_jax.data import Split, from_arrays
from robust_jax.evaluation import (
    certification,
    claims,
    descriptions,
    dry_run,
    environment,
    measurement,
    paired,
    records,
    reductions,
    report,
    sanity,
)
from robust_jax.evaluation.harness import Evaluator, evaluate, make_evaluator
from robust_jax.evaluation.measures import Found
from robust_jax.evaluation.model import Model
from robust_jax.evaluation.protocol import CLEAN, Evaluation
from robust_jax.evaluation.report import sentence, terminal
from robust_jax.evaluation.summary import Summary
from robust_jax.runtime import locks, logging, sharding
from robust_jax.types import Variables

LOCK = "evaluation.lock"
"""In an evaluation's directory: held by the program that writes there."""


class Result(NamedTuple):
    """What an evaluation came to.

    Attributes:
        model: what was judged.
        evaluation: the protocol.
        records: by attack and row, of every image.
        summary: the numbers made of them, see `reductions.summarize`, and what they came from.
        findings: of the sanity checks.
        certificates: by name, with the images' labels.
        measured: answers of the measures, by name.
        pictures: of the page.

    Example:
        >>> from robust_jax import evaluation
        >>> from robust_jax.evaluation import Evaluation, Model
        >>> images = np.eye(8, dtype=np.float32)[:, None, None]  # eight pixels of eight channels
        >>> labels = np.array([0, 1, 2, 3, 4, 5, 6, 6])
        >>> model = Model.of(lambda images: images[:, 0, 0], num_classes=8, name="a pixel")
        >>> wanted = Evaluation(batch_size=8, sanity=False, measures={})
        >>> result = evaluation.run(model, (images, labels), wanted)
        >>> result
        <Result of a pixel, step 0, test split: 8 images>
        >>> result.summary["clean_accuracy"]
        0.875
        >>> result.records["clean"][7].decisions["accuracy"].prediction
        7
    """

    model: Model
    evaluation: Evaluation
    records: records.Records
    summary: Summary
    findings: list[sanity.Finding]
    certificates: dict[str, tuple[Certificate, np.ndarray]]
    measured: dict[str, Found]
    pictures: report.Pictures

    @property
    def title(self) -> str:
        """Returns which model this is of, and which split."""
        return f"{self.model.name}, step {self.model.step}, {self.evaluation.selection.split} split"

    @property
    def words(self) -> str:
        """Returns what it comes to, in a sentence or two that somebody can be told."""
        return " ".join(self._sentences)

    @property
    def _sentences(self) -> list[str]:
        asked = self.evaluation
        return sentence.sentences(
            self.summary, judge=asked.deciding, attacks=asked.attacks,
            certificates=asked.certificates,
        )  # fmt: skip

    def table(self, width: int = 120) -> str:
        """Returns the table, as a terminal of this many columns shows it."""
        return terminal.as_text(
            self.title, self.summary, self.evaluation.descriptions, width, self.words
        )

    def show(self) -> None:
        """Prints the table, what the paper prints of the measures, and the findings."""
        terminal.print_summary(self.title, self.summary, self.evaluation.descriptions, self.words)
        for line in measurement.say_printed(self.measured, self.evaluation.asked):
            logging.say(line)
        terminal.print_findings(self.findings)

    def __repr__(self) -> str:
        """Returns a line: what it holds is large."""
        return f"<Result of {self.title}: {self.summary['num_examples']} images>"

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the table and the findings."""
        return terminal.as_html(
            self.title, self.summary, self.evaluation.descriptions, self.findings, self.words
        )

    def compare(self, other: "Result") -> list[paired.Pair]:
        """Returns by attack, of those with the same settings, what one of two has right alone.

        Raises:
            ValueError: they are not of the same images.
        """
        data = [one.summary.get("environment", {}).get("data") for one in (self, other)]
        if data[0] != data[1]:
            raise ValueError(f"Expected both evaluations to be of the same images: {data}.")
        asked = [
            paired.Asked(one.evaluation, one.summary.get("sources", {})) for one in (self, other)
        ]
        judges = self.evaluation.deciding, other.evaluation.deciding
        return paired.compare(
            self.records, other.records, judges=judges, attacks=paired.alike(*asked)
        )

    def report(self, path: str | pathlib.Path) -> None:
        """Writes the page, a file of its own that needs no other, from process 0 alone."""
        asked = self.evaluation
        report.write(
            pathlib.Path(path), self.model, self.pictures,
            title=self.title, selection=asked.selection, adversary=asked.adversary,
            attacks=asked.attacks, judge=asked.deciding, printed=asked.printed,
            summary=self.summary, records=self.records,
            findings=self.findings,
            certificates=self.certificates, measured=self.measured,
            sentences=self._sentences, probed=asked.sanity,
        )  # fmt: skip


def run(
    model: Model,
    data: Split | tuple[ArrayLike, ArrayLike],
    evaluation: Evaluation,
    *,
    out: str | pathlib.Path | None = None,
    sources: Mapping[str, Model] | None = None,
    mesh: Mesh | None = None,
    evaluator: Evaluator | None = None,
    progress: bool = False,
) -> Result:
    """Judges a model.

    Args:
        model: what is judged, of a checkpoint or `Model.of(function, ...)`.
        data: a split, or images [b h w k] in [0, 1] (floats) or 0 .. 255 (uint8) with labels [b].
        evaluation: the protocol: attacks, judges, certificates, measures.
        out: directory where records, certificates and summary.json are kept, and gone on with.
            A function is held to be the same where it answers the same on a few images. None
            keeps nothing.
        sources: models that attacks are transferred from, or that are certified besides, by name.
        mesh: devices; None for all.
        evaluator: of this method and protocol, where it is made already.
        progress: show a progress bar?

    Returns:
        The records, the numbers made of them, and what is said of these.

    Raises:
        ValueError: the protocol asks for what this model or its data cannot give, or `out` is of
            another evaluation; before anything is attacked.

    Example:
        >>> import jax
        >>> from robust_jax import evaluation
        >>> from robust_jax.attacks import FGSM, ThreatModel
        >>> from robust_jax.evaluation import AttackRun, Evaluation, Model
        >>> images = jax.random.uniform(jax.random.key(0), (8, 4, 4, 1))
        >>> labels = (images.mean(axis=(1, 2, 3)) > 0.5).astype(int)
        >>> def logits(images):
        ...     brightness = images.mean(axis=(1, 2, 3)) - 0.5
        ...     return jax.numpy.stack([-brightness, brightness], axis=1)
        >>> wanted = Evaluation({"fgsm": AttackRun(FGSM(ThreatModel("linf", 0.5)))}, batch_size=8)
        >>> model = Model.of(logits, num_classes=2)
        >>> result = evaluation.run(model, (images, labels), wanted)
        >>> result.summary["clean_accuracy"], result.summary["robust_accuracy"]["fgsm"]
        (1.0, 0.0)
    """
    mesh = mesh or sharding.make_mesh()
    split = _as_split(data, model, evaluation)
    functions = [one.name for one in (model, *(sources or {}).values()) if one.config is None]
    if functions and evaluator is not None:
        raise ValueError(f"Expected no evaluator of {functions[0]!r}: a function may have changed.")
    model, sources = model.on(mesh), {n: one.on(mesh) for n, one in (sources or {}).items()}
    if out is not None:
        place = pathlib.Path(out)
        return _judged(model, split, evaluation, place, sources, mesh, evaluator, progress)
    if jax.process_count() > 1:
        raise ValueError("Expected out=None to be a directory that all hosts share.")
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        return _judged(model, split, evaluation, place, sources, mesh, evaluator, progress)


def _as_split(
    given: Split | tuple[ArrayLike, ArrayLike], model: Model, evaluation: Evaluation
) -> Split:
    wanted = evaluation.selection.split
    if isinstance(given, Split):
        if given.name != wanted:
            raise ValueError(
                f"Expected split={wanted!r} of the evaluation to be {given.name!r}, the data's."
            )
        return given
    return from_arrays(*given, num_classes=model.num_classes, name=wanted)


def _judged(
    model: Model,
    split: Split,
    wanted: Evaluation,
    out: pathlib.Path,
    sources: Mapping[str, Model],
    mesh: Mesh,
    evaluator: Evaluator | None,
    progress: bool,
) -> Result:
    methods = {name: source.method for name, source in sources.items()}
    evaluator = evaluator or make_evaluator(model.method, wanted, mesh, methods)
    models = {None: model, **sources}
    dry_run.check_data(split, model)
    for name, source in sources.items():
        dry_run.check_data(split, source, source=name)
    questions = measurement.Questions(
        wanted.asked, wanted.measures is not None, wanted.batch_size, wanted.seed
    )
    num_chosen = wanted.selection.most(len(split), model.num_classes)
    measurement.check(questions, model, split, num_chosen)
    traced = {name: (one.method, one.variables) for name, one in models.items()}
    dry_run.check(evaluator, traced, model.task(split.shape), directory=out)
    for one in models.values():
        one.check(split.shape)
    with locks.alone(out / LOCK):  # from here on the directory is written
        return _kept(model, split, out, sources, evaluator, questions, progress=progress)


def _kept(
    model: Model,
    split: Split,
    out: pathlib.Path,
    sources: Mapping[str, Model],
    evaluator: Evaluator,
    questions: measurement.Questions,
    *,
    progress: bool,
) -> Result:
    """Evaluates, and keeps what comes of it in the directory."""
    wanted, mesh, models = evaluator.config, evaluator.mesh, {None: model, **sources}
    description = descriptions.describe(model, sources, split, wanted)
    claims.claim(out, description)
    environments = environment.remember(out, environment.describe(wanted.precision, mesh, split))
    of_all, certificates = _attacked_and_certified(
        evaluator, models, split, out, mesh, progress=progress
    )
    seconds = records.seconds_by_attack(out)  # also of attacks that the directory had before
    seconds = {name: seconds[name] for name in evaluator.steps if name in seconds}
    summary = reductions.summarize(of_all, wanted, seconds)
    if wanted.selection.by_correctness and jax.process_index() == 0:
        summary["candidates"] = records.candidates(out, wanted.judges)
    summary["sources"] = descriptions.networks(claims.part(description, "sources"))
    summary["environment"], summary["earlier_environments"] = environments[-1], environments[:-1]
    # Of the whole process so far, training included.
    summary["peak_bytes"] = sharding.peak_bytes(mesh.devices.flat)
    summary["command"] = shlex.join(["python", *sys.argv])
    summary["printed"] = reductions.beside_the_paper(summary, wanted.printed, model.name)
    findings = sanity.check_records(of_all, wanted.attacks, wanted.deciding)
    findings += sanity.check_certificates(
        certificates, of_all, wanted.certificates, wanted.deployed
    )
    summary["certificates"] = {
        name: certification.summarize(wanted.certificates[name.partition("@")[0]], *one)
        for name, one in certificates.items()
    }
    measured = {}
    with (
        jax.default_matmul_precision(wanted.precision),
        logging.Progress(enabled=progress) as shown,
    ):
        if wanted.sanity:
            with shown.during("sanity checks"):
                findings += sanity.probe_split(
                    model.method, model.variables, split, of_all, wanted.attacks,
                    judge=wanted.judges[wanted.deciding], seed=wanted.seed,
                    skip_misclassified=wanted.adversary.skip_misclassified,
                )  # fmt: skip
        if questions.measures:
            with shown.during("measures"):
                measured = measurement.measure(questions, model, split, list(of_all[CLEAN]))
    summary["measures"] = {name: one.numbers for name, one in measured.items()}
    summary["sanity"] = [finding._asdict() for finding in findings]
    if jax.process_index() == 0:
        formats.write(out / "summary.json", summary)
    pictures = report.pictures(out, wanted.attacks, split)
    return Result(model, wanted, of_all, summary, findings, certificates, measured, pictures)


def _attacked_and_certified(
    evaluator: Evaluator,
    models: Mapping[str | None, Model],
    split: Split,
    out: pathlib.Path,
    mesh: Mesh,
    *,
    progress: bool,
) -> tuple[records.Records, certification.Certificates]:
    wanted = evaluator.config
    with logging.Progress(enabled=progress) as shown:
        arrays: dict[str, Variables] = {n: m.variables for n, m in models.items() if n is not None}
        of_all = evaluate(
            evaluator, models[None].variables, split,
            directory=out, sources=arrays, on_batch=shown.update,
        )  # fmt: skip
        rows = np.asarray(list(of_all[CLEAN]))[: wanted.num_certified]
        certificates: certification.Certificates = {}
        for other in (None, *wanted.others):
            certificates |= certification.certify(
                wanted.certificates, models[other].method, models[other].variables, split, rows,
                mesh, precision=wanted.precision, seed=wanted.seed, directory=out, other=other,
                on_image=shown.update,
            )  # fmt: skip
    return of_all, certificates
