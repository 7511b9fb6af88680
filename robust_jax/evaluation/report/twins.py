"""Images and their adversarial twins: original, adversarial, difference, a row for each attack."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.image import imsave

from robust_jax.evaluation.protocol import CLEAN
from robust_jax.evaluation.records import Decision, Records
from robust_jax.evaluation.report.page import as_data
from robust_jax.runtime.wording import text

MAX_ATTACKS = 6
"""Attacks that have a row: the first ones whose images differ."""

IN_A_ROW = 3
"""Images of an attack; those that it turned wrong come first."""

SMALL = 96
"""Images of fewer pixels a side are enlarged pixel by pixel."""

LARGE = 160
"""Images of more pixels a side are shown by every second pixel, or third, ...: a page is mailed."""

ALIKE = 0.01
"""Attacks whose images differ by less than this times the change look the same."""

Shown = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""By attack, rows and adversarial images [n h w k]."""

Clean = Mapping[int, np.ndarray]
"""By row, the clean image."""


class Different(NamedTuple):
    """Attacks by what their images look like.

    Attributes:
        shown: those that have a row.
        unmoved: those that left all images as they were.
        alike: those whose images are another's, by name, whose.
        harmless: those that turned no image wrong, where others did.
        more: those for which there is no room.
    """

    shown: list[str]
    unmoved: list[str]
    alike: dict[str, str]
    harmless: list[str]
    more: list[str]


def different(shown: Shown, clean: Clean, records: Records, judge: str) -> Different:
    """Returns which attacks look different from the clean images and from each other.

    Args:
        shown: what the attacks made.
        clean: of the same rows.
        records: of every attack.
        judge: who says which images were turned wrong.
    """
    found = Different([], [], {}, [], [])
    for name, (rows, images) in shown.items():
        change = float(np.max(np.abs(images - _originals(rows, clean))))
        twin = next((one for one in found.shown if _alike(shown[one], shown[name], change)), None)
        if change == 0:
            found.unmoved.append(name)
        elif twin is not None:
            found.alike[name] = twin
        else:
            found.shown.append(name)

    def turned(name: str, row: int) -> bool:
        return _right(records, CLEAN, row, judge) and not _right(records, name, row, judge)

    harmful = [
        name for name in found.shown if any(turned(name, row) for row in shown[name][0].tolist())
    ]
    kept = harmful or found.shown
    harmless = [name for name in found.shown if name not in kept]
    return found._replace(shown=kept[:MAX_ATTACKS], harmless=harmless, more=kept[MAX_ATTACKS:])


def twins(
    shown: Shown,
    clean: Clean,
    records: Records,
    class_names: Sequence[str],
    *,
    judge: str,
    descriptions: Mapping[str, str],
) -> str:
    """Returns a row of images for each attack that differs, and says which do not.

    Args:
        shown: what the attacks made.
        clean: of the same rows.
        records: of every attack.
        class_names: in label order.
        judge: whose decision is named.
        descriptions: what each attack is, by its name.

    Returns:
        HTML; nothing where no attack moved an image that was kept.
    """
    shown = {name: pair for name, pair in shown.items() if len(pair[0])}
    kinds = different(shown, clean, records, judge)
    if not kinds.shown:
        return ""
    parts = []
    for name in kinds.shown:
        rows, images = shown[name]
        originals = _originals(rows, clean)
        chosen = _chosen(name, rows, images - originals, records, judge)
        gain = 0.5 / float(np.max(np.abs(images[chosen] - originals[chosen])))
        each = "".join(
            _twin(
                originals[n], images[n], gain,
                records[CLEAN][rows[n]].decisions[judge], records[name][rows[n]].decisions[judge],
                label=records[CLEAN][rows[n]].label, class_names=class_names,
            )
            for n in chosen
        )  # fmt: skip
        parts.append(
            f'<div class="together"><h3>{text(name)}</h3>'
            f"<p><small>{text(descriptions.get(name, ''))}</small></p>"
            f'<div class="twins">{each}</div></div>'
        )
    about = (
        "<p>Original, adversarial image, and the difference between them, amplified as often as is "
        f"said, where middle grey is no change; and what the judge {text(judge)} takes the image "
        "for. They are of the first images, those that the attack turned wrong before others, and "
        "none that was wrong before, unless all were.</p>"
    )
    step = _step(shown[kinds.shown[0]][1][0])
    if step > 1:
        about += f"<p>Of every {step} rows and columns of pixels one is shown.</p>"
    return about + "".join(parts) + "".join(_left_out(kinds))


def _originals(rows: np.ndarray, clean: Clean) -> np.ndarray:
    return np.stack([clean[row] for row in rows.tolist()])


def _alike(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], change: float
) -> bool:
    if not np.array_equal(one[0], other[0]):
        return False
    return bool(np.max(np.abs(one[1] - other[1])) <= ALIKE * change)


def _chosen(
    name: str, rows: np.ndarray, change: np.ndarray, records: Records, judge: str
) -> list[int]:
    """Returns the places of the images that are shown: of those that moved and were right before.

    Where all were wrong before, those that moved.
    """
    moved = [place for place in range(len(rows)) if np.any(change[place])]
    row = rows.tolist()
    fit = [place for place in moved if _right(records, CLEAN, row[place], judge)] or moved
    stands = {place: _right(records, name, row[place], judge) for place in fit}
    return sorted(fit, key=lambda place: (stands[place], place))[:IN_A_ROW]


def _right(records: Records, attack: str, row: int, judge: str) -> bool:
    return records[attack][row].decisions[judge].correct


def _twin(
    original: Float[np.ndarray, "h w k"],
    adversarial: Float[np.ndarray, "h w k"],
    gain: float,
    before: Decision,
    after: Decision,
    *,
    label: int,
    class_names: Sequence[str],
) -> str:
    """Returns three pictures beside each other, with what they are and are taken for."""

    def named(decision: Decision) -> str:
        return class_names[decision.prediction] if decision.prediction >= 0 else "nothing (NaN)"

    def said(decision: Decision) -> str:
        kind = "passed" if decision.correct else "flag"
        draws = ""
        if 0 < decision.share_correct < 1:
            draws = f"<br>{100 * decision.share_correct:.0f} % of draws right"
        return f'taken for <b class="{kind}">{text(named(decision))}</b>{draws}'

    name = class_names[label]
    difference = np.clip(0.5 + gain * (adversarial - original), 0, 1)
    first = f"<b>{text(name)}</b>" + ("" if before.correct else f", {said(before)}")
    return (
        '<figure class="twin">'
        f"{_image(original, f'original, {name}')}"
        f"{_image(adversarial, f'adversarial, taken for {named(after)}')}"
        f"{_image(difference, 'difference, amplified')}"
        f"<span>{first}</span><span>{said(after)}</span>"
        f"<span>difference &times;&nbsp;{gain:.3g}</span>"
        "</figure>"
    )


def _image(pixels: Float[np.ndarray, "h w k"], words: str) -> str:
    """Returns a picture; of neither grey nor colour images the mean of the channels."""
    values = np.asarray(pixels, np.float32)
    if values.shape[-1] != 3:
        values = values.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    step = _step(values)
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(np.clip(values[::step, ::step], 0, 1)), format="png")
    kind = ' class="pixels"' if max(values.shape) < SMALL else ""
    return f'<img{kind} alt="{text(words)}" src="{as_data(buffer.getvalue())}">'


def _step(pixels: Float[np.ndarray, "h w k"]) -> int:
    """Returns by how many pixels an image is shown that has too many."""
    return -(-max(pixels.shape[:2]) // LARGE)


def _left_out(kinds: Different) -> Iterator[str]:
    """Yields a line on the attacks that have no row."""
    words = []
    if kinds.unmoved:
        words.append(f"{', '.join(kinds.unmoved)} (left these images as they were)")
    if kinds.harmless:
        words.append(f"{', '.join(kinds.harmless)} (turned none of these images wrong)")
    words += [f"{name} (the images of {other})" for name, other in kinds.alike.items()]
    if kinds.more:
        words.append(f"{', '.join(kinds.more)} (no room)")
    if words:
        yield f'<p class="quiet">Not shown: {text("; ".join(words))}.</p>'
