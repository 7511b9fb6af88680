"""How the figures look: one quiet style, colours that colour-blind readers can tell apart.

Figures are made without pyplot: nothing is global, and nothing needs a screen.
"""

import contextlib
from collections.abc import Iterator, Sequence, Sized

import matplotlib
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

AnyArray = Array | np.ndarray

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Of series, in order: Okabe and Ito, "Color universal design", 2008, without its yellow."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")

SEQUENTIAL, DIVERGING = "Blues", "RdBu_r"

WIDTH = 6.0
"""Inches."""

GREY = "#4D4D4D"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Makes what is drawn inside it look as all figures here do; also a decorator."""
    with matplotlib.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.labelsize": 9,
            "axes.edgecolor": GREY,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.7,
            "xtick.color": GREY,
            "ytick.color": GREY,
            "xtick.labelcolor": "black",
            "ytick.labelcolor": "black",
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "lines.linewidth": 1.5,
            "lines.markersize": 4,
            "legend.frameon": False,
            "legend.fontsize": 8,
            "image.interpolation": "nearest",
            "figure.constrained_layout.h_pad": 0.07,
            "figure.constrained_layout.w_pad": 0.07,
            "savefig.dpi": 150,
            "figure.dpi": 150,
            "svg.fonttype": "none",
        }
    ):
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Returns an empty figure of so many inches, whose parts make room for one another."""
    return Figure(figsize=(width, height), layout="constrained")


def color(number: int) -> str:
    """Returns the colour of a series; they repeat after seven, markers then differ."""
    return COLORS[number % len(COLORS)]


def marker(number: int) -> str:
    """Returns the marker of a series, another one for each of 49."""
    return MARKERS[(number + number // len(COLORS)) % len(MARKERS)]


def legend(figure: Figure, axes: Axes) -> None:
    """Puts the names of the axes' series above the figure."""
    handles, labels = axes.get_legend_handles_labels()
    per_row = max(1, int(figure.get_figwidth() * 14 / (max(map(len, labels)) + 6)))
    # Rows as even as they can be: 5 names that fit 4 in a row are 3 and 2.
    num_rows = -(-len(labels) // per_row)
    num_columns = -(-len(labels) // num_rows)
    figure.legend(handles, labels, loc="outside upper center", ncols=num_columns)


def percent(axis: Axis) -> None:
    """Writes the numbers of an axis, fractions, as percent."""
    axis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))


def name(given: object) -> str:
    """Returns what a series or a class is called so that matplotlib prints it letter by letter.

    Between two dollars it sees mathematics, and no series with `_` first is put in a legend.
    """
    escaped = str(given).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def short(layer: str) -> str:
    """Returns a tap's name without its number."""
    number, _, rest = layer.partition(".")
    return name(rest if number.isdigit() and rest else layer)


def layer_ticks(axes: Axes, layers: Sequence[str], *, most: int = 30) -> None:
    """Writes the names of layers below their positions, every second (third, ...) if many."""
    every = -(-len(layers) // most)
    places = range(0, len(layers), every)
    axes.set_xticks(places, [short(layers[place]) for place in places], rotation=90, fontsize=7)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.grid(axis="x", visible=False)


def check_some(name: str, values: Sized) -> None:
    """Raises ValueError where there is nothing to draw."""
    if len(values) == 0:
        raise ValueError(f"Expected {name} not to be empty.")
