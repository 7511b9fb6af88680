"""A study as one page: a figure, the tables, how to repeat it."""

import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_jax.analysis import style
from robust_jax.evaluation.report.page import Section, command, picture, table, write_page
from robust_jax.runtime.wording import NOTHING, percent, text
from robust_jax.study.definition import Study
from robust_jax.study.table import Line, Share

COLUMNS = {
    "worst case": "worst",
    "paper's own protocol": "paper",
    "frugal suite": "frugal",
    "transferred": "transfer",
    "one draw": "one_draw",
    "certified": "certified",
}
"""Fields of `InBall`, as the table calls them; a column that no row has is left out."""

HEAD = 0.03
"""Difference of accuracies of an arrow that is longer than its head; shorter ones are not drawn."""

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

    A panel for each ball that at least half of the rows are attacked in; of further seeds the worst
    case alone, as dots.

    Args:
        study: the study.
        lines: its rows, at least one.
    """
    firsts, further = first_seeds(lines)
    counts = {str(threat): sum(str(threat) in line.balls for line in firsts)
              for threat in study.threats}  # fmt: skip
    balls = [ball for ball, count in counts.items() if 2 * count >= len(firsts)]
    balls = balls or [max(counts, key=lambda ball: counts[ball])]
    shown = sorted(firsts, key=lambda line: [_worst(line, ball) for ball in balls])
    families = list(dict.fromkeys(line.family for line in firsts))
    size = (style.WIDTH, 0.8 + 0.24 * max(len(shown), 3))
    drawn = Figure(figsize=size, layout="constrained")
    panels = drawn.subplots(1, len(balls), sharey=True, squeeze=False)[0]
    for axes, ball in zip(panels, balls, strict=True):
        for place, line in enumerate(shown):
            color = style.COLORS[families.index(line.family) % len(style.COLORS)]
            _draw(axes, place, line, ball, color)
            again = [one for one in further[line.task.name] if ball in one.balls]
            worsts = [_worst(one, ball) for one in again]
            axes.plot(worsts, [place] * len(worsts), ".", color=color, markersize=4)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"accuracy, {ball}")
        style.percent(axes.xaxis)
    panels[0].set_yticks(range(len(shown)), [style.name(_name(line)) for line in shown])
    panels[0].set_ylim(-0.7, len(shown) - 0.3)
    drawn.legend(
        [
            Line2D([], [], color=style.GREY, linestyle="none", marker="|", markersize=9),
            Line2D([], [], color=style.GREY, linestyle="none", marker="o", markerfacecolor="white"),
            Line2D([], [], color=style.GREY, linestyle="none", marker="o"),
        ],
        ["clean", "paper's own protocol", "honest worst case"],
        loc="outside upper center",
        ncols=3,
    )
    return drawn


def first_seeds(lines: Sequence[Line]) -> tuple[list[Line], dict[str, list[Line]]]:
    """Returns the first line of every row, and by row those of further seeds."""
    firsts: dict[str, Line] = {}
    further: dict[str, list[Line]] = {}
    for line in lines:
        if line.task.name not in firsts:
            firsts[line.task.name], further[line.task.name] = line, []
        else:
            further[line.task.name].append(line)
    return [*firsts.values()], further


def _worst(line: Line, ball: str) -> float:
    return line.balls[ball].worst.value if ball in line.balls else -1.0


def _draw(axes: Axes, place: int, line: Line, ball: str, color: str) -> None:
    """Draws a row of a panel."""
    axes.plot([line.clean.value], [place], "|", color=style.GREY, markersize=9)
    if ball not in line.balls:
        return
    worst, paper = line.balls[ball].worst, line.balls[ball].paper
    axes.plot([worst.low, worst.high], [place, place], color=color, alpha=0.35, linewidth=4)
    if paper is not None:
        if abs(worst.value - paper.value) > HEAD:
            axes.annotate(
                "", (worst.value, place), (paper.value, place),
                arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.0},
            )  # fmt: skip
        axes.plot([paper.value], [place], "o", color=color, markerfacecolor="white")
    axes.plot([worst.value], [place], "^" if line.flags else "o", color=color)


def write(
    study: Study,
    lines: Sequence[Line],
    *,
    spec: str,
    out: pathlib.Path,
    outdated: Sequence[Line] = (),
) -> pathlib.Path:
    """Writes the page and its figure; returns the page's file.

    Args:
        study: the study.
        lines: its rows, at least one.
        spec: file of the study, for the commands.
        out: directory.
        outdated: those whose evaluation is another than the file asks for today.
    """
    drawn = figure(study, lines)
    drawn.savefig(out / "study.png", dpi=200)
    file = out / "study.html"
    missing = _missing(study, lines)
    lead = f"<p>{text(_first_words(study, lines))}</p>"
    if any(line.budget == "reduced" for line in lines):
        lead += f'<div class="stamp">{REDUCED}</div><br>'
    if outdated:
        names = ", ".join(map(_name, outdated))
        lead += f'<div class="stamp">Of an earlier evaluation: {text(names)}</div><br>'
    if missing:
        lead += f'<div class="stamp">Not run: {text(missing)}</div>'
    parts = [
        Section("What each defence leaves", picture(drawn, CAPTION)),
        Section("Table", _table(study, lines)),
        Section("Once more", _commands(spec, lines)),
    ]
    write_page(file, study.title, lead, parts)
    return file


def _name(line: Line) -> str:
    return line.title if line.task.seed == 0 else f"{line.title}, seed {line.task.seed}"


def _missing(study: Study, lines: Sequence[Line]) -> str:
    done = {line.task.name for line in lines}
    return "; ".join(row.title for name, row in study.rows.items() if name not in done)


def _first_words(study: Study, lines: Sequence[Line]) -> str:
    return " ".join([f"{_count(lines)}, {_images(lines)}.", *filter(None, [study.note])])


def _count(lines: Sequence[Line]) -> str:
    rows = len(first_seeds(lines)[0])
    again = len(lines) - rows
    return f"{rows} rows" + (f" and {again} of further seeds" if again else "")


def _images(lines: Sequence[Line]) -> str:
    counts = sorted({line.num_images for line in lines})
    return f"{' or '.join(map(str, counts))} test images each"


def _cell(share: Share | float | None) -> str:
    if share is None:
        return NOTHING
    if isinstance(share, Share):
        interval = f"{100 * share.low:.1f} to {100 * share.high:.1f}"
        return f"{percent(share.value)} <small>{interval}</small>"
    return percent(share)


def words(study: Study, lines: Sequence[Line]) -> str:
    """Returns what the columns of the tables mean.

    Args:
        study: the study.
        lines: its rows.
    """
    found = (left.num_certified for line in lines for left in line.balls.values())
    counts = sorted({number for number in found if number is not None})
    first = f", of the first {' or '.join(map(str, counts))} images" if counts else ""
    return (
        "Accuracy of the deployed rule with 95 % intervals: differences inside them say "
        "nothing. By the paper's protocol its own rule decides, which is another where it prints "
        "one draw, or the network without its noise. The worst case counts an image that is right "
        "clean and under every attack of its evaluation in the ball, adaptive ones included. Of a "
        "random defence or an ensemble, one draw: the least accuracy of a single pass or member "
        "under any of the attacks. "
        f"Transferred: what fools the plain row. Certified: proven by linear bounds{first}. "
        f"Training time is an image's, relative to {study.rows[study.reference].title}: the two "
        "took turns. A dash: not asked, or not measured."
    )


class Table(NamedTuple):
    """A table of the page, of what stands in its cells in HTML.

    Attributes:
        heading: above it; None for the first.
        columns: their names.
        rows: a cell for each column.
    """

    heading: str | None
    columns: list[str]
    rows: list[list[str]]


def tables(study: Study, lines: Sequence[Line]) -> list[Table]:
    """Returns what is true of every row, then what is left in each ball, then what seeds change.

    Args:
        study: the study.
        lines: its rows.
    """
    every = lines
    lines, further = first_seeds(every)
    rows = [
        [
            text(_name(line)),
            _cell(line.clean),
            text("; ".join(line.flags)) or NOTHING,
            NOTHING if line.training_time is None else f"{line.training_time:.2f} x",
        ]
        for line in lines
    ]
    made = [Table(None, ["defence", "clean", "checks raised", "training time"], rows)]
    for ball in map(str, study.threats):
        left = [(line, line.balls[ball]) for line in lines if ball in line.balls]
        if left:
            columns = {heading: [_cell(getattr(one, field)) for _, one in left]
                       for heading, field in COLUMNS.items()}  # fmt: skip
            asked = {name: cells for name, cells in columns.items() if {*cells} != {NOTHING}}
            names = [text(_name(line)) for line, _ in left]
            rows = [list(row) for row in zip(names, *asked.values(), strict=True)]
            made.append(Table(ball, ["defence", *asked], rows))
    again = [[line, *further[line.task.name]] for line in lines if further[line.task.name]]
    if again:
        balls = [str(threat) for threat in study.threats]
        columns = ["defence", "seeds", "clean", *(f"worst case, {ball}" for ball in balls)]
        made.append(Table("Trained again with further seeds", columns,
                          [_seeds(runs, balls) for runs in again]))  # fmt: skip
    return made


def _seeds(runs: Sequence[Line], balls: Sequence[str]) -> list[str]:
    """Returns a row's range over its seeds, beside the interval of the first."""
    shares: list[list[Share]] = [[line.clean for line in runs]]
    for ball in balls:  # in which the first is attacked
        attacked = [line.balls[ball].worst for line in runs if ball in line.balls]
        shares.append(attacked if ball in runs[0].balls else [])
    cells = [NOTHING if not found else _range(found) for found in shares]
    return [text(runs[0].title), ", ".join(str(line.task.seed) for line in runs), *cells]


def _range(found: Sequence[Share]) -> str:
    values = [share.value for share in found]
    interval = f"interval {100 * found[0].low:.1f} to {100 * found[0].high:.1f}"
    return f"{percent(min(values))} to {percent(max(values))} <small>{interval}</small>"


def markdown(study: Study, lines: Sequence[Line]) -> str:
    """Returns the tables in Markdown.

    Args:
        study: the study.
        lines: its rows.
    """
    missing = _missing(study, lines)
    parts = [f"{_first_words(study, lines)} {words(study, lines)}"]
    parts += [f"Not run yet: {missing}."] if missing else []
    for one in tables(study, lines):
        if one.heading is not None:
            parts.append(f"**{one.heading}**")
        # An interval is in brackets where no size tells it apart.
        rows = [[re.sub("<small>(.+)</small>", r"(\1)", cell) for cell in row] for row in one.rows]
        cells = [one.columns, ["---"] * len(one.columns), *rows]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in cells))
    return "\n\n".join(parts) + "\n"


def _table(study: Study, lines: Sequence[Line]) -> str:
    parts = [f"<p>{text(words(study, lines))}</p>"]
    for one in tables(study, lines):
        parts += [f"<h3>{one.heading}</h3>"] if one.heading is not None else []
        parts.append(table(one.columns, one.rows))
    return "".join(parts)


def _commands(spec: str, lines: Sequence[Line]) -> str:
    reduced = " --budget reduced" if any(line.budget == "reduced" for line in lines) else ""
    words = [
        f"python -m robust_jax.study {spec}{reduced}",
        f"python -m robust_jax.study {spec} --only ROW{reduced}",
        f"python train.py {spec}:ROW{reduced}",
    ]
    return "".join(map(command, words))
