"""A self-contained HTML page of sections: no file beside it, no network."""

import base64
import io
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from robust_jax.evaluation.report.look import SCRIPT, STYLE
from robust_jax.runtime.wording import NOTHING, text

WIDTH = 10.5
"""Of the page, inches of 96 pixels."""


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        title: its heading.
        body: HTML.
    """

    title: str
    body: str


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, total: int = 0) -> str:
    """Returns a table of HTML cells.

    Args:
        headings: plain words, a second line small; all empty for none.
        rows: cells in HTML; one that starts with a digit is a number.
        total: how many of the last rows sum up the others.
    """
    rows = list(rows)

    def cell(content: str) -> str:
        kind = ' class="number"' if content[:1].isdigit() else ""
        return f"<td{kind}>{content}</td>"

    def line(number: int, row: Sequence[str]) -> str:
        above = len(rows) - total
        kind = ' class="total first"' if number == above else ' class="total"'
        kind = kind if number >= above else ""
        return f"<tr{kind}>{''.join(map(cell, row))}</tr>"

    def head(heading: str) -> str:
        first, _, second = heading.partition("\n")
        small = f"<small>{text(second)}</small>" if second else ""
        return f'<th scope="col">{text(first)}{small}</th>'

    body = "".join(line(number, row) for number, row in enumerate(rows))
    top = f"<thead><tr>{''.join(map(head, headings))}</tr></thead>" if any(headings) else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def filled_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table without the columns that have no number in any row."""
    rows = list(rows)
    kept = [n for n in range(len(headings)) if any(row[n] != NOTHING for row in rows)]
    return table([headings[n] for n in kept], [[row[n] for n in kept] for row in rows])


def picture(figure: Figure, caption: str) -> str:
    """Returns a figure with its pixels inside the page, as wide as the page.

    It is drawn anew for that width, and shown as it was drawn on narrow screens; one whose axes
    have a shape of their own, as an image's, stays as it is.
    """
    wide, high = drawn = _size(figure)
    if _is_of_fixed_shape(figure):
        return _figure(_image(figure, drawn, caption), caption)
    scale = max(1.0, WIDTH / wide)
    # Wider than it was, and a little higher.
    image = _image(figure, (wide * scale, high * scale**0.5), caption)
    narrow = f'<source media="(max-width: 700px)" srcset="{_data(figure, drawn)}">'
    return _figure(f"<picture>{narrow}{image}</picture>", caption, whole=True)


def figures(pairs: Sequence[tuple[Figure, str]]) -> str:
    """Returns figures with their captions, two beside each other; one alone is as wide as the page.

    Args:
        pairs: figure and caption.
    """
    alone = len(pairs) % 2 == 1
    beside = pairs[:-1] if alone else pairs
    parts = [_figure(_image(one, _size(one), caption), caption) for one, caption in beside]
    parts += [picture(*one) for one in pairs[len(beside) :]]
    return f'<div class="figures">{"".join(parts)}</div>' if len(parts) > 1 else "".join(parts)


def command(line: str) -> str:
    """Returns a command that a button copies."""
    return (
        f'<div class="command"><pre><code>{text(line)}</code></pre>'
        '<button type="button" hidden aria-live="polite">Copy</button></div>'
    )


def anchor(title: str) -> str:
    """Returns the place of a section on the page, by its title."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def write_page(file: pathlib.Path, title: str, lead: str, sections: Iterable[Section]) -> None:
    """Writes the page; a page that was there is replaced at once.

    Args:
        file: where, its folder is made.
        title: plain words.
        lead: HTML under the title.
        sections: in order.
    """
    parts = [
        f'<section id="{anchor(section.title)}"><h2>{text(section.title)}</h2>\n'
        f"{section.body}</section>"
        for section in sections
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{text(title)}</h1>{lead}{''.join(parts)}</main>"
        f"<script>{SCRIPT}</script></body></html>"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(page)
    partial.replace(file)


def _size(figure: Figure) -> tuple[float, float]:
    """Returns how wide and high a figure is."""
    wide, high = figure.get_size_inches().tolist()
    return wide, high


def _is_of_fixed_shape(figure: Figure) -> bool:
    """Returns whether a figure has axes that stretching would leave as they are."""
    return any(
        axes.get_box_aspect() is not None or axes.get_aspect() != "auto" for axes in figure.axes
    )


def _figure(content: str, caption: str, *, whole: bool = False) -> str:
    kind = ' class="whole"' if whole else ""
    return f"<figure{kind}>{content}<figcaption>{text(caption)}</figcaption></figure>"


def _image(figure: Figure, size: tuple[float, float], caption: str) -> str:
    width = round(96 * size[0])
    return f'<img width="{width}" alt="{text(caption)}" src="{_data(figure, size)}">'


def _data(figure: Figure, size: tuple[float, float]) -> str:
    """Returns a figure drawn in a size, which it does not keep."""
    before = _size(figure)
    buffer = io.BytesIO()
    try:
        figure.set_size_inches(size)
        figure.savefig(buffer, format="png", dpi=160)
    finally:
        figure.set_size_inches(before)
    return as_data(buffer.getvalue())


def as_data(png: bytes) -> str:
    """Returns the address of a picture that lies inside the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
