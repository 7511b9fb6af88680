"""The report's sections, each made of what an evaluation wrote."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from robust_jax import analysis
from robust_jax.attacks import BoundedAttack
from robust_jax.certify import Certificate
from robust_jax.page import Section, picture, table, text
from robust_jax.protocol import CLEAN, Evaluation
from robust_jax.records import Record, Records
from robust_jax.report.measure import Diversity, Measured
from robust_jax.report.tables import checks, details, headline, papers_table, percent
from robust_jax.sanity import Finding

MAX_CLASSES = 20
"""Most classes whose confusion is drawn."""


def sections(
    summary: Mapping[str, Any],
    config: Evaluation,
    records: Records,
    findings: Sequence[Finding],
    descriptions: Mapping[str, str],
    *,
    shown: Mapping[str, tuple[np.ndarray, np.ndarray]],
    clean_images: Mapping[int, np.ndarray],
    class_names: Sequence[str],
    certificates: Mapping[str, tuple[Certificate, np.ndarray]],
    measured: Measured | None,
) -> Iterator[Section]:
    """Yields the sections of the page, in order; one without anything to show is left out.

    Args:
        summary: from `records.summarize`.
        config: the protocol.
        records: of every attack.
        findings: of the sanity checks.
        descriptions: a line on each attack.
        shown: by attack, rows and adversarial images (`records.read_shown`).
        clean_images: by row, the clean ones of those.
        class_names: in label order.
        certificates: by name, with the labels.
        measured: what was asked of the model beside the records.
    """
    yield Section("Accuracy", headline(summary, descriptions) + papers_table(config.printed))
    yield Section("Can these numbers be trusted?", checks(findings))
    curves = list(_curves(config, records))
    if curves:
        yield Section("Accuracy over eps", f'<div class="figures">{"".join(curves)}</div>')
    if certificates:
        yield Section("Certified accuracy", _certified(certificates))
    pictures = list(_pictures(shown, clean_images, records, class_names))
    if pictures:
        yield Section("Images and their adversarial twins", "".join(pictures))
    if len(class_names) <= MAX_CLASSES:
        yield Section("Which classes are taken for which", _confusion(config, records, class_names))
    if measured is not None and measured.diversity is not None:
        yield Section("Members of the ensemble", _diversity(measured.diversity))
    network = _network(measured, class_names)
    if network:
        yield Section("Inside the network", f'<div class="figures">{network}</div>')
    yield Section("Other columns, and time", details(summary))


def _standing(records: Records, name: str, judge: str) -> np.ndarray:
    clean = records[CLEAN]
    return np.asarray(
        [r.decisions[judge].correct and records[name][i].decisions[judge].correct
         for i, r in clean.items()]
    )  # fmt: skip


def _curves(config: Evaluation, records: Records) -> Iterator[str]:
    """Yields a figure for each norm of which attacks come at two eps or more."""
    judge = config.deciding
    clean = np.asarray([record.decisions[judge].correct for record in records[CLEAN].values()])
    for norm in ("linf", "l2"):
        series: dict[str, dict[float, np.ndarray]] = {}
        for name, run in config.attacks.items():
            if isinstance(run.attack, BoundedAttack) and run.attack.threat.norm == norm:
                kind = [type(run.attack).__name__, run.view, run.source and f"of {run.source}"]
                loss = getattr(run.attack, "loss", None)
                key = ", ".join(str(word) for word in [*kind, loss] if word)
                found = series.setdefault(key, {0.0: clean})
                eps, stands = run.attack.threat.eps, _standing(records, name, judge)
                # Two attacks of one kind and eps: their worst case.
                found[eps] = stands & found.get(eps, stands)
        series = {key: found for key, found in series.items() if len(found) > 2}
        if series:
            unit = "1/255" if norm == "linf" else "1"
            figure = analysis.accuracy_curves(series, norm=norm, unit=unit)
            yield picture(figure, f"Accuracy over eps, judged by {judge!r}; bands: 95 % intervals.")


def _certified(certificates: Mapping[str, tuple[Certificate, np.ndarray]]) -> str:
    rows = []
    for name, (found, labels) in certificates.items():
        right = found.label == labels
        rows.append(
            [
                text(name),
                percent(float(right.mean())),
                percent(float((found.label < 0).mean())),
                f"{float(np.where(right, found.radius, 0).mean()):.3f}",
                str(len(labels)),
            ]
        )
    headings = ["certifier", "certified at radius 0", "abstained", "average radius", "images"]
    pictures = []
    curves = {
        name: analysis.Certified(found.radius, found.label == labels)
        for name, (found, labels) in certificates.items()
        if found.margin is None
    }
    if curves:
        words = "Share of images certified as their class at a radius."
        pictures.append(picture(analysis.certified_curves(curves), words))
    margins = {
        name: found.margin for name, (found, _) in certificates.items() if found.margin is not None
    }
    if margins:
        words = "Lower bound of each image's smallest margin in the ball: right for sure above 0."
        pictures.append(picture(analysis.margin_scatter(margins), words))
    return table(headings, rows) + "".join(pictures)


def _pictures(
    shown: Mapping[str, tuple[np.ndarray, np.ndarray]],
    clean_images: Mapping[int, np.ndarray],
    records: Records,
    class_names: Sequence[str],
) -> Iterator[str]:
    def name(record: Record) -> str:
        return class_names[record.headline.prediction]

    for attack, (rows, images) in shown.items():
        if len(rows) == 0:
            continue
        figure = analysis.image_twins(
            np.stack([clean_images[row] for row in rows]),
            images,
            names=[class_names[records[CLEAN][row].label] for row in rows],
            perturbed_names=[name(records[attack][row]) for row in rows],
        )
        yield picture(
            figure,
            f"{attack}: labels above, below what the first column's judge takes the twin for; "
            "differences amplified.",
        )


def _confusion(config: Evaluation, records: Records, class_names: Sequence[str]) -> str:
    judge = config.deciding
    labels = np.asarray([record.label for record in records[CLEAN].values()])

    def figure(name: str) -> str:
        found = [records[name][row].decisions[judge].prediction for row in records[CLEAN]]
        matrix = analysis.confusion_matrix(labels, np.asarray(found), class_names)
        return picture(matrix, f"{name}, judged by {judge!r}.")

    attacks = [name for name in records if name != CLEAN]
    weakest = min(attacks, key=lambda name: _standing(records, name, judge).sum(), default=None)
    names = [CLEAN] if weakest is None else [CLEAN, weakest]
    return f'<div class="figures">{"".join(map(figure, names))}</div>'


def _diversity(found: Diversity) -> str:
    num_members = len(found.correct)
    names = [f"member {number + 1}" for number in range(num_members)]
    rows = [
        ["clean accuracy", ", ".join(percent(float(r.mean())) for r in found.correct)],
        [
            "interrater agreement",
            f"{found.agreement:.3f} <small>1: right on the same images</small>",
        ],
        ["entropy E", f"{found.entropy:.3f} <small>0: all agree</small>"],
    ]
    for loss, numbers in found.gradients.items():
        low, middle, high = numbers["L_d"]
        rows.append(
            [f"L<sub>d</sub>, {loss.replace('_', '-')}",
             f"{middle:.3g} <small>{low:.3g} to {high:.3g}</small>"]
        )  # fmt: skip
        low, middle, high = numbers["L_s"]
        zero = ", ".join(percent(share) for share in numbers["zero_share"])
        rows.append(
            [f"L<sub>s</sub>, {loss.replace('_', '-')}",
             f"{middle:.3g} <small>{low:.3g} to {high:.3g}; zero gradients: {zero}</small>"]
        )  # fmt: skip
    threat = found.threat
    sent = picture(
        analysis.heat_map(
            found.transfer,
            names,
            [*names, "vote"],
            label="accuracy",
            row_label="examples made for",
            column_label="judged by",
            percent=True,
        ),
        f"PGD-10 on one member, judged by the others ({threat.norm}, eps {threat.eps:.4g}).",
    )
    alike = picture(
        analysis.similarity_curves(found.cka, label="linear CKA, debiased"),
        "Similarity of the members' layers.",
    )
    words = (
        f"<p>On the first {found.correct.shape[1]} images. L<sub>d</sub>: sum over pairs of the "
        "cosine of the losses' gradients; L<sub>s</sub>: sum of their norms (median, quartiles)."
        "</p>"
    )
    return words + table(["", ""], rows) + f'<div class="figures">{sent}{alike}</div>'


def _network(measured: Measured | None, class_names: Sequence[str]) -> str:
    if measured is None:
        return ""
    parts = []
    if measured.kernel is not None:
        parts.append(
            picture(
                analysis.filter_sheet(*measured.kernel),
                "Filters of the first convolution on the sheet that kernels are pooled over.",
            )
        )
    if measured.embedding is not None:
        figure = analysis.embedding_scatter(
            {"last layer before the head": measured.embedding}, measured.labels, class_names
        )
        parts.append(picture(figure, "t-SNE of the clean images' activations."))
    return "".join(parts)
