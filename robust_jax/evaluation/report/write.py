"""Writing the page of an evaluation that has ended."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from robust_jax.certify import Certificate
from robust_jax.data import Split
from robust_jax.evaluation.attack_runs import balls
from robust_jax.evaluation.measurement import load
from robust_jax.evaluation.measures import Found
from robust_jax.evaluation.model import Model
from robust_jax.evaluation.protocol import Adversary, AttackRun, Printed, Selection
from robust_jax.evaluation.records import Records, read_shown
from robust_jax.evaluation.report.page import write_page
from robust_jax.evaluation.report.sections import sections
from robust_jax.evaluation.report.sentence import MEANING
from robust_jax.evaluation.report.terminal import selected
from robust_jax.evaluation.report.trust import box
from robust_jax.evaluation.sanity import Finding
from robust_jax.evaluation.summary import Summary
from robust_jax.runtime.wording import text


class Pictures(NamedTuple):
    """Images that a page shows.

    Attributes:
        shown: by attack, rows and adversarial images [n h w k].
        clean: by row, the clean image.
    """

    shown: dict[str, tuple[np.ndarray, np.ndarray]]
    clean: dict[int, np.ndarray]


def pictures(out: pathlib.Path, attacks: Iterable[str], split: Split) -> Pictures:
    """Returns the images that an evaluation kept for its page.

    Args:
        out: its directory.
        attacks: names of its attacks.
        split: its examples.
    """
    found = {name: read_shown(out, name) for name in attacks}
    shown = {name: pair for name, pair in found.items() if len(pair[0])}
    wanted = sorted({row for rows, _ in shown.values() for row in rows.tolist()})
    clean = np.asarray(load(split, wanted)[0]) if wanted else ()
    return Pictures(shown, dict(zip(wanted, clean, strict=True)))


def write(
    file: pathlib.Path,
    model: Model,
    pictures: Pictures,
    *,
    title: str,
    selection: Selection,
    adversary: Adversary,
    attacks: Mapping[str, AttackRun],
    judge: str,
    printed: Printed | None,
    summary: Summary,
    records: Records,
    findings: Sequence[Finding],
    certificates: Mapping[str, tuple[Certificate, np.ndarray]],
    measured: Mapping[str, Found],
    sentences: Sequence[str] = (),
    probed: bool = True,
) -> None:
    """Writes the page, from process 0 alone.

    Args:
        file: where.
        model: what was evaluated.
        pictures: of some of its examples.
        title: of the page.
        selection: which examples.
        adversary: what holds for every attack.
        attacks: by name.
        judge: whose word counts.
        printed: what the paper prints.
        summary: from `reductions.summarize`.
        records: of every attack.
        findings: of the sanity checks.
        certificates: by name, with the images' labels.
        measured: answers of the measures, by name.
        sentences: what it comes to, `sentence.sentences`.
        probed: did the sanity checks ask the model, and not the records alone?
    """
    if jax.process_index() != 0:
        return
    chosen = f"{text(selection.split)} split, selection: {text(selected(summary))}"
    lead = (
        f'<p class="facts">{text(model.kind)} · {summary["num_examples"]:,} images of the {chosen} '
        f"· attacks move away from the {text(adversary.labels)} label · judged by {text(judge)} · "
        f"{summary['wall_seconds']:.0f}&nbsp;s</p>"
    )
    if summary["budget"] == "reduced":
        lead += '<div class="stamp">Reduced budget: not comparable with any other number</div>'
    unbroken = [text(one).replace(" %", "&nbsp;%") for one in sentences]
    said = "".join(f'<p class="words">{one}</p>' for one in unbroken)
    said += _footnote(summary, judge, attacks)
    lead += f'<div class="top"><div>{said}</div>{box(findings, probed=probed)}</div>'
    write_page(
        file,
        title,
        lead,
        sections(
            summary,
            records,
            findings,
            attacks=attacks,
            judge=judge,
            printed=printed,
            shown=pictures.shown,
            clean_images=pictures.clean,
            class_names=model.labels,
            certificates=certificates,
            measured=measured,
            file=file,
        ),
    )


def _footnote(summary: Summary, judge: str, attacks: Mapping[str, AttackRun]) -> str:
    """Returns the interval of the one worst case that the words name, and what radii measure."""
    found = summary["judges"][judge]
    intervals = found["intervals"]["worst_case_accuracy"]
    sentences = []
    if len(intervals) == 1 and found["clean_accuracy"] > 0:
        ((low, high),) = intervals.values()
        sentences.append(f"95 % interval under attack: {100 * low:.1f} to {100 * high:.1f} %.")
    norms = dict.fromkeys(ball.norm for ball in balls(attacks))
    sentences += [f"{MEANING[norm]}." for norm in norms if norm in MEANING]
    return f'<p class="quiet">{text(" ".join(sentences))}</p>' if sentences else ""
