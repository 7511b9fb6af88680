"""A study as one page: a figure, the table, a paragraph for each family, how to repeat it."""

import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_jax.analysis import style
from robust_jax.evaluation.report.page import Section, picture, table, write_page
from robust_jax.runtime.wording import NOTHING, percent, text
from robust_jax.study.definition import Study
from robust_jax.study.table import Line, Share, relative_times

HEADINGS = ("clean", "paper's own protocol", "frugal suite")
REDUCED = "Reduced budget: not comparable with any other number."
CAPTION = (
    "Of each defence, the accuracy on clean images (bar), what its paper's own attack leaves "
    "(hollow), and what an adversary who knows the defence leaves (filled, with its 95 % "
    "interval; a triangle where a sanity check was raised). An arrow leads from the paper's "
    "protocol to the honest number."
)


@style.quiet()
def figure(study: Study, lines: Sequence[Line]) -> Figure:
    """Returns clean accuracy, the paper's protocol and the honest worst case of every row.

    Args:
        study: the study.
        lines: its rows, at least one.
    """
    ball = str(study.threats[0])
    shown = [line for line in lines if ball in line.worst]
    shown.sort(key=lambda line: line.worst[ball].value)
    families = list(dict.fromkeys(line.family for line in lines))
    drawn = Figure(figsize=(style.WIDTH, 0.6 + 0.24 * max(len(shown), 3)), layout="constrained")
    axes = drawn.subplots()
    for place, line in enumerate(shown):
        worst, color = line.worst[ball], style.COLORS[families.index(line.family) % 7]
        axes.plot([line.clean.value], [place], "|", color=style.GREY, markersize=9)
        axes.plot([worst.low, worst.high], [place, place], color=color, alpha=0.35, linewidth=4)
        if line.paper is not None:
            axes.annotate(
                "", (worst.value, place), (line.paper.value, place),
                arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.0},
            )  # fmt: skip
            axes.plot([line.paper.value], [place], "o", color=color, markerfacecolor="white")
        axes.plot([worst.value], [place], "^" if line.flags else "o", color=color)
    axes.set_yticks(range(len(shown)), [_name(line) for line in shown])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"accuracy, {ball}")
    style.percent(axes.xaxis)
    axes.legend(
        [
            Line2D([], [], color=style.GREY, linestyle="none", marker="|", markersize=9),
            Line2D([], [], color=style.GREY, linestyle="none", marker="o", markerfacecolor="white"),
            Line2D([], [], color=style.GREY, linestyle="none", marker="o"),
        ],
        ["clean", "paper's own protocol", "honest worst case"],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
    )
    return drawn


def write(study: Study, lines: Sequence[Line], *, spec: str, out: pathlib.Path) -> pathlib.Path:
    """Writes the page and its figure; returns the page's file.

    Args:
        study: the study.
        lines: its rows, at least one.
        spec: file of the study, for the commands.
        out: directory.
    """
    drawn = figure(study, lines)
    drawn.savefig(out / "study.png", dpi=200)
    file = out / "study.html"
    missing = [row.title for name, row in study.rows.items()
               if name not in {line.task.name for line in lines}]  # fmt: skip
    lead = f"<p>{len(lines)} rows, {_images(lines)}.</p>"
    if any(line.budget == "reduced" for line in lines):
        lead += f'<div class="stamp">{REDUCED}</div><br>'
    if missing:
        lead += f'<div class="stamp">Not run: {text(", ".join(missing))}</div>'
    parts = [
        Section("What each defence leaves", picture(drawn, CAPTION)),
        Section("Table", _table(study, lines)),
        *(Section(family, f"<p>{text(words)}</p>") for family, words in study.paragraphs.items()),
        Section("Once more", _commands(spec)),
    ]
    write_page(file, study.title, lead, parts)
    return file


def _name(line: Line) -> str:
    return line.title if line.task.seed == 0 else f"{line.title}, seed {line.task.seed}"


def _images(lines: Sequence[Line]) -> str:
    counts = sorted({line.num_images for line in lines})
    return f"{' or '.join(map(str, counts))} test images each"


def _cell(share: Share | None) -> str:
    if share is None:
        return NOTHING
    return f"{percent(share.value)} <small>{100 * share.low:.1f} to {100 * share.high:.1f}</small>"


def _table(study: Study, lines: Sequence[Line]) -> str:
    times = relative_times(study, lines)
    balls = [str(threat) for threat in study.threats]
    headings = ["defence", *HEADINGS, *(f"worst case, {ball}" for ball in balls)]
    headings += ["one draw", "certified", "flags", "training time"]
    rows = []
    for line in lines:
        draw = NOTHING if line.single_draw is None else percent(line.single_draw)
        time = times.get(line.task)
        rows.append(
            [
                text(_name(line)),
                *map(_cell, (line.clean, line.paper, line.frugal)),
                *(_cell(line.worst.get(ball)) for ball in balls),
                draw,
                _cell(line.certified),
                text("; ".join(line.flags)) or NOTHING,
                NOTHING if time is None else f"{time:.1f} x",
            ]
        )
    words = (
        "<p>Accuracy of the deployed rule with 95 % intervals: differences inside them say "
        "nothing. The worst case counts an image that is right clean and under every attack of "
        "its evaluation in the ball, adaptive ones included. Of a random defence, one draw: the "
        "least accuracy of a single pass under any of the attacks. Training time is relative to "
        f"{text(study.rows[study.reference].title)}.</p>"
    )
    return words + table(headings, rows)


def _commands(spec: str) -> str:
    lines = [
        f"python -m robust_jax.study {spec}",
        f"python -m robust_jax.study {spec} --only ROW",
        f"python train.py {spec}:ROW",
    ]
    return "".join(f"<p><code>{text(line)}</code></p>" for line in lines)
