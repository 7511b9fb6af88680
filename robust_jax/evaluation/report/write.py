"""Writing the report of an evaluation that has just ended."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from robust_jax.certify import Certificate
from robust_jax.data import Split
from robust_jax.evaluation import protocol
from robust_jax.evaluation.measurement import load
from robust_jax.evaluation.measures import Found
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.evaluation.records import Records, read_shown
from robust_jax.evaluation.report.page import write_page
from robust_jax.evaluation.report.sections import sections
from robust_jax.evaluation.sanity import Finding
from robust_jax.experiment.checkpoints import Checkpoint
from robust_jax.runtime.logging import selected
from robust_jax.runtime.wording import text

MAX_PICTURES = 4
"""Attacks whose images are shown: the first ones."""


def write(
    out: pathlib.Path,
    checkpoint: Checkpoint,
    split: Split,
    *,
    title: str,
    summary: Mapping[str, Any],
    config: Evaluation,
    records: Records,
    findings: Sequence[Finding],
    certificates: Mapping[str, tuple[Certificate, np.ndarray]],
    measured: Mapping[str, Found],
) -> None:
    """Writes report.html, from process 0 alone.

    Args:
        out: directory of the evaluation.
        checkpoint: what was evaluated.
        split: its examples.
        title: of the page.
        summary: from `records.summarize`.
        config: the protocol.
        records: of every attack.
        findings: of the sanity checks.
        certificates: by name, with the images' labels.
        measured: answers of the measures, by name.
    """
    if jax.process_index() != 0:
        return
    names = [name for name in config.attacks if len(read_shown(out, name)[0])][:MAX_PICTURES]
    shown = {name: read_shown(out, name) for name in names}
    wanted = sorted({row for rows, _ in shown.values() for row in rows.tolist()})
    clean_images = np.asarray(load(split, wanted)[0]) if wanted else ()
    network, num_classes = type(checkpoint.config.method).__name__, checkpoint.task.num_classes
    lead = (
        f'<p class="quiet">{text(network)} · {summary["num_examples"]} images of the '
        f"{text(config.split)} split, selection: {text(selected(summary))} · attacks move away "
        f"from the {text(config.attack_labels)} label · {summary['wall_seconds']:.0f} s</p>"
    )
    if config.budget == "reduced":
        lead += '<div class="stamp">Reduced budget: not comparable with any other number</div>'
    write_page(
        out / "report.html",
        title,
        lead,
        sections(
            summary,
            config,
            records,
            findings,
            protocol.describe(config),
            shown=shown,
            clean_images=dict(zip(wanted, clean_images, strict=True)),
            class_names=checkpoint.class_names or [str(n) for n in range(num_classes)],
            certificates=certificates,
            measured=measured,
        ),
    )
