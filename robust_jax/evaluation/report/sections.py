"""The report's sections, each made of what an evaluation wrote."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
from matplotlib.figure import Figure

from robust_jax import analysis, serialization
from robust_jax.attacks import BoundedAttack
from robust_jax.attacks.threat import Norm
from robust_jax.certify import Certificate
from robust_jax.evaluation.measures import Found
from robust_jax.evaluation.protocol import CLEAN, AttackRun, Printed
from robust_jax.evaluation.records import Records
from robust_jax.evaluation.reductions import share
from robust_jax.evaluation.report.page import Section, figures, table
from robust_jax.evaluation.report.repeat import repeat
from robust_jax.evaluation.report.tables import (
    details,
    headline,
    papers_table,
    with_interval,
)
from robust_jax.evaluation.report.trust import EVERY_CHECK, every_check
from robust_jax.evaluation.report.twins import Clean, Shown, twins
from robust_jax.evaluation.sanity import Finding
from robust_jax.evaluation.summary import CertificateSummary, Summary
from robust_jax.runtime.wording import NOTHING, percent, text

MAX_CLASSES = 20
"""Most classes whose confusion is drawn."""

PER_CLASS = 5
"""Fewest images of a class, in the mean, of which shares are worth drawing."""


def sections(
    summary: Summary,
    records: Records,
    findings: Sequence[Finding],
    *,
    attacks: Mapping[str, AttackRun],
    judge: str,
    printed: Printed | None,
    shown: Shown,
    clean_images: Clean,
    class_names: Sequence[str],
    certificates: Mapping[str, tuple[Certificate, np.ndarray]],
    measured: Mapping[str, Found],
    file: pathlib.Path,
) -> Iterator[Section]:
    """Yields the sections of the page, in order; one without anything to show is left out.

    Args:
        summary: from `reductions.summarize`.
        records: of every attack.
        findings: of the sanity checks.
        attacks: by name.
        judge: whose word counts.
        printed: what the paper prints.
        shown: by attack, rows and adversarial images (`records.read_shown`).
        clean_images: by row, the clean ones of those.
        class_names: in label order.
        certificates: by name, with the labels.
        measured: answers of the measures, by name.
        file: of the page.
    """
    descriptions = {name: run.described for name, run in attacks.items()}
    yield Section("Accuracy", headline(summary, descriptions) + papers_table(printed))
    yield Section(EVERY_CHECK, every_check(findings))
    counted = summary["judges"][judge]["robust_accuracy"]
    of_judge = {name: run for name, run in attacks.items() if name in counted}
    curves = list(_accuracy_over_eps(of_judge, records, judge))
    if curves:
        numbers = table(["attack", "eps", "accuracy"], [row for _, rows in curves for row in rows])
        folded = f"<details><summary>The curves' numbers</summary>{numbers}</details>"
        yield Section("Accuracy over eps", figures([pair for pair, _ in curves]) + folded)
    if certificates:
        yield Section(
            "Certified accuracy", _certified(certificates, summary.get("certificates", {}))
        )
    shown = {name: _of_its_own(attacks[name], pair, records, judge) for name, pair in shown.items()}
    pictures = twins(
        shown, clean_images, records, class_names, judge=judge, descriptions=descriptions
    )
    if pictures:
        yield Section("Images and their adversarial twins", pictures)
    if len(class_names) <= min(MAX_CLASSES, len(records[CLEAN]) / PER_CLASS):
        yield Section("Which classes are taken for which", _confusion(records, class_names, judge))
    yield from _by_subject(measured)
    others = details(summary)
    if others:
        yield Section("Other columns, and time", others)
    again = repeat(summary, file)
    if again:
        yield Section("Once more", again)


def _standing(records: Records, name: str, judge: str) -> np.ndarray:
    clean = records[CLEAN]
    return np.asarray(
        [r.decisions[judge].correct and records[name][i].decisions[judge].correct
         for i, r in clean.items()]
    )  # fmt: skip


def _of_its_own(
    run: AttackRun, pair: tuple[np.ndarray, np.ndarray], records: Records, judge: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a run's pictures without those that the judge took otherwise in a smaller ball.

    Of these the record is the smaller ball's, and the picture the larger one's.
    """
    if run.after is None:
        return pair
    rows, images = pair
    stood = [records[run.after][row].decisions[judge].correct for row in rows.tolist()]
    return rows[stood], images[stood]


def _accuracy_over_eps(
    attacks: Mapping[str, AttackRun], records: Records, judge: str
) -> Iterator[tuple[tuple[Figure, str], list[list[str]]]]:
    """Yields for each norm of which an attack comes at two eps or more a figure and its numbers."""
    clean = np.asarray([record.decisions[judge].correct for record in records[CLEAN].values()])
    for norm in get_args(Norm):
        several = _curves({
            name: run for name, run in attacks.items()
            if isinstance(run.attack, BoundedAttack) and run.attack.threat.norm == norm
        })  # fmt: skip
        firsts = [next(iter(rows.values()))[0] for rows in several]
        titles = [_without_ball(attacks[name]) for name in firsts]
        series: dict[str, dict[float, np.ndarray]] = {}
        for title, first, rows in zip(titles, firsts, several, strict=True):
            # Of rows that are alike in the radius too: their worst case.
            stands = {
                eps: np.all([_standing(records, name, judge) for name in names], axis=0)
                for eps, names in rows.items()
            }
            key = title if titles.count(title) == 1 else f"{title} ({first})"
            series[key] = {0.0: clean, **stands}
        if series:
            unit = "1/255" if norm == "linf" else "1"
            figure = analysis.accuracy_curves(series, norm=norm, unit=unit)
            rows = [
                [text(name), _radius(eps, norm), with_interval(share(curve[eps].tolist()))]
                for name, curve in series.items()
                for eps in sorted(curve)
            ]
            words = f"Accuracy over eps, judged by {judge!r}; bands: 95 % intervals."
            yield (figure, words), rows


def _curves(attacks: Mapping[str, AttackRun]) -> list[dict[float, list[str]]]:
    """Returns the names of rows by radius, of such that differ in nothing else.

    Nothing else: in steps of one size, or of one in relation to the radius.
    """
    groups: list[dict[float, list[str]]] = []
    for relative in (True, False):
        alike: dict[str, dict[float, list[str]]] = {}
        for name, run in attacks.items():
            assert isinstance(run.attack, BoundedAttack)
            rows = alike.setdefault(_settings(run, relative=relative), {})
            rows.setdefault(run.attack.threat.eps, []).append(name)
        groups += [rows for rows in alike.values() if len(rows) > 1]
    found: list[dict[float, list[str]]] = []
    drawn: set[str] = set()
    for rows in sorted(groups, key=len, reverse=True):
        names = {name for each in rows.values() for name in each}
        if not names <= drawn:
            found.append(rows)
            drawn |= names
    return found


def _settings(run: AttackRun, *, relative: bool) -> str:
    """Returns what rows of one curve share: all but the radius."""
    assert isinstance(run.attack, BoundedAttack)
    eps, fields = run.attack.threat.eps, serialization.to_json(run.attack)
    step = fields.get("step_size")
    if relative and isinstance(step, float) and eps > 0:
        fields["step_size"] = round(step / eps, 6)
    fields["threat"] = run.attack.threat.norm
    others = serialization.to_json(dataclasses.replace(run, after=None, adaptive=False))
    return json.dumps({**others, "attack": fields}, sort_keys=True)


def _without_ball(run: AttackRun) -> str:
    """Returns a row in words, but for its radius."""
    assert isinstance(run.attack, BoundedAttack)
    loss = getattr(run.attack, "loss", None)
    words = dataclasses.replace(run, after=None, adaptive=False).described.split(", ")
    words = [one for one in words if one not in (str(run.attack.threat), f"loss {loss}")]
    return ", ".join(words if loss is None else [*words, str(loss)])


def _radius(eps: float, norm: str) -> str:
    return f"{norm} {255 * eps:.4g}/255" if norm == "linf" else f"{norm} {eps:.4g}"


def _certified(
    certificates: Mapping[str, tuple[Certificate, np.ndarray]],
    summaries: Mapping[str, CertificateSummary],
) -> str:
    voted = any(one["num_votes"] is not None for one in summaries.values())
    rows = []
    for name in certificates:
        one = summaries[name]
        rows.append(
            [
                f"{text(name)}<br><small>{text(one['what'])}</small>",
                *_with_intervals(one),
                percent(one["abstained"]),
                *([_votes(one)] if voted else []),
                str(one["num_images"]),
            ]
        )
    headings = [
        "certifier", "certified (smoothing: at radius 0)", "average radius", "abstained",
        *(["votes an image"] if voted else []), "images",
    ]  # fmt: skip
    pictures = []
    curves = {
        name: analysis.Certified(one.radius, one.label == labels)
        for name, (one, labels) in certificates.items()
        if one.margin is None
    }
    if curves:
        words = "Share of images certified as their class at a radius; bands: 95 % intervals."
        pictures.append((analysis.certified_curves(curves), words))
    margins = {
        # Of what is positive and not certified no dot: by rounding, or as the model decides.
        name: np.where((one.margin > 0) & (one.label != labels), np.nan, one.margin)
        for name, (one, labels) in certificates.items()
        if one.margin is not None
    }
    if margins:
        words = "Lower bound of each image's smallest margin in the ball: certified above 0."
        pictures.append((analysis.margin_scatter(margins), words))
    return table(headings, rows) + figures(pictures)


def _with_intervals(one: CertificateSummary) -> list[str]:
    """Returns the accuracy at radius 0 and the average radius, with their intervals."""
    intervals = one["intervals"]
    accuracy, radius = one["certified_accuracy"], f"{one['average_certified_radius']:.3f}"
    if intervals is None:
        return [percent(accuracy), radius]
    if intervals["average_certified_radius"] is not None:
        low, high = intervals["average_certified_radius"]
        radius += f" <small>{low:.3f} to {high:.3f}</small>"
    return [with_interval((accuracy, intervals["certified_accuracy"])), radius]


def _votes(one: CertificateSummary) -> str:
    """Returns the votes that an image took in the mean, of how many at most."""
    if one["num_votes"] is None:
        return NOTHING
    return f"{one['num_votes']:,.0f} of {one['most_votes']:,}"


def _confusion(records: Records, class_names: Sequence[str], judge: str) -> str:
    labels = np.asarray([record.label for record in records[CLEAN].values()])

    def predicted(name: str) -> np.ndarray:
        chosen = records[CLEAN]
        return np.asarray([records[name][row].decisions[judge].prediction for row in chosen])

    def figure(name: str) -> tuple[Figure, str]:
        predictions = predicted(name)
        decided = predictions >= 0
        matrix = analysis.confusion_matrix(labels[decided], predictions[decided], class_names)
        missing = "" if decided.all() else f" {np.sum(~decided)} without: their scores are NaN."
        return matrix, f"{name}, judged by {judge!r}.{missing}"

    attacks = [name for name in records if name != CLEAN]
    weakest = min(attacks, key=lambda name: _standing(records, name, judge).sum(), default=None)
    names = [CLEAN] if weakest is None else [CLEAN, weakest]
    undecided = [name for name in names if (predicted(name) < 0).all()]
    lines = [
        f"<p>{text(name)}: all scores are NaN, no image has a class.</p>" for name in undecided
    ]
    return "".join(lines) + figures([figure(name) for name in names if name not in undecided])


def _by_subject(measured: Mapping[str, Found]) -> Iterator[Section]:
    """Yields a section for each subject that measures have, in their order."""
    for title in dict.fromkeys(answer.section for answer in measured.values()):
        here = [answer for answer in measured.values() if answer.section == title]
        body = "".join(f"<p>{answer.about}</p>" for answer in here if answer.about)
        lines = [list(line) for answer in here for line in answer.lines]
        if lines:
            body += table(["", ""], lines)
        body += figures([pair for answer in here for pair in answer.figures])
        yield Section(title, body)
