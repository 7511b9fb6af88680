"""A self-contained HTML page of sections: no file beside it, no script, no network."""

import base64
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from robust_jax.runtime.wording import text

STYLE = """
:root { --ink: #1c1e21; --quiet: #5f6368; --line: #e3e5e8; --paper: #ffffff; --accent: #0072b2;
  --flag: #b3261e; --note: #8a5a00; --passed: #1e6b3a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 24px 80px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
p { margin: 6px 0 12px; max-width: 75ch; }
.quiet { color: var(--quiet); }
.stamp { display: inline-block; border: 2px solid var(--flag); color: var(--flag);
  font-weight: 600; padding: 3px 10px; border-radius: 4px; margin: 8px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
td.number { white-space: nowrap; }
td small, p small { color: var(--quiet); }
tr.total td { font-weight: 600; border-top: 2px solid var(--ink); }
.status { font-weight: 600; white-space: nowrap; }
.flag { color: var(--flag); } .note { color: var(--note); } .passed { color: var(--passed); }
figure { margin: 14px 0 22px; }
figure img { max-width: 100%; height: auto; }
figcaption { color: var(--quiet); max-width: 75ch; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr));
  gap: 8px 28px; align-items: start; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--accent); }
tr.total small { font-weight: 400; }
code { overflow-wrap: anywhere; }
@media (max-width: 640px) { td.number small { display: block; } th, td { padding-right: 10px; } }
@media print { main { padding: 0; } details { display: block; } }
"""


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        title: its heading.
        body: HTML.
    """

    title: str
    body: str


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, total: bool = False) -> str:
    """Returns a table of HTML cells.

    Args:
        headings: plain words.
        rows: cells in HTML; one that starts with a digit is a number.
        total: is the last row the sum of the others?
    """
    rows = list(rows)

    def cell(content: str) -> str:
        kind = ' class="number"' if content[:1].isdigit() else ""
        return f"<td{kind}>{content}</td>"

    def line(number: int, row: Sequence[str]) -> str:
        kind = ' class="total"' if total and number == len(rows) - 1 else ""
        return f"<tr{kind}>{''.join(map(cell, row))}</tr>"

    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    body = "".join(line(number, row) for number, row in enumerate(rows))
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def picture(figure: Figure, caption: str) -> str:
    """Returns a figure with its pixels inside the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    data = base64.b64encode(buffer.getvalue()).decode()
    width = round(96 * figure.get_figwidth())
    return (
        f'<figure><img width="{width}" alt="{text(caption)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{text(caption)}</figcaption></figure>'
    )


def write_page(file: pathlib.Path, title: str, lead: str, sections: Iterable[Section]) -> None:
    """Writes the page; a page that was there is replaced at once.

    Args:
        file: where.
        title: plain words.
        lead: HTML under the title.
        sections: in order.
    """
    parts = [f"<h2>{text(section.title)}</h2>\n{section.body}" for section in sections]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{text(title)}</h1>{lead}{''.join(parts)}</main></body></html>"
    )
    partial = file.with_suffix(".partial")
    partial.write_text(page)
    partial.replace(file)
