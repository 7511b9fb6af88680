"""Writing the report of an evaluation that has just ended."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from robust_jax import protocol
from robust_jax.attacks import BoundedAttack
from robust_jax.certify import Certificate
from robust_jax.checkpoints import Checkpoint
from robust_jax.data import Split, eval_batches
from robust_jax.logging import selected
from robust_jax.methods import Method
from robust_jax.page import text, write_page
from robust_jax.protocol import CLEAN, Evaluation
from robust_jax.records import Records, read_shown
from robust_jax.report.measure import measure
from robust_jax.report.sections import sections
from robust_jax.sanity import Finding
from robust_jax.sharding import local

NUM_MEASURED = 64
MAX_PICTURES = 4
"""Attacks whose images are shown: the first ones."""


def write(
    out: pathlib.Path,
    checkpoint: Checkpoint,
    method: Method,
    split: Split,
    *,
    title: str,
    summary: Mapping[str, Any],
    config: Evaluation,
    records: Records,
    findings: Sequence[Finding],
    certificates: Mapping[str, tuple[Certificate, np.ndarray]] | None = None,
) -> None:
    """Writes report.html, from process 0 alone: it measures on its own copy of the model.

    Args:
        out: directory of the evaluation.
        checkpoint: what was evaluated.
        method: its method.
        split: its examples.
        title: of the page.
        summary: from `records.summarize`.
        config: the protocol.
        records: of every attack.
        findings: of the sanity checks.
        certificates: by name, with the images' labels.
    """
    if jax.process_index() != 0:
        return
    names = [name for name in config.attacks if len(read_shown(out, name)[0])][:MAX_PICTURES]
    shown = {name: read_shown(out, name) for name in names}
    wanted = sorted({row for rows, _ in shown.values() for row in rows.tolist()})
    clean_images = np.asarray(_images(split, wanted)[0]) if wanted else ()
    measured = None
    if config.sanity:
        images, labels = _images(split, list(records[CLEAN])[:NUM_MEASURED])
        threats = [r.attack.threat for r in config.attacks.values()
                   if isinstance(r.attack, BoundedAttack)]  # fmt: skip
        threat = min(threats, key=lambda found: (found.norm == "l2", found.eps), default=None)
        measured = measure(
            method,
            checkpoint.config.method,
            local(checkpoint.variables),
            images,
            labels,
            threat,
            seed=config.seed,
        )
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
            certificates=certificates or {},
            measured=measured,
        ),
    )


def _images(split: Split, rows: Sequence[int]) -> tuple[Any, Any]:
    (batch,) = eval_batches(split, len(rows), np.asarray(rows, np.int32), None)
    return batch.image, batch.label
