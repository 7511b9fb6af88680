"""Figures of what happens inside a network, and of numbers compared by their quartiles."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from robust_jax.analysis import style
from robust_jax.analysis.style import AnyArray

QUARTILES = (25, 50, 75)

MAX_NAMED = 20
"""Most classes of a legend."""


@style.quiet()
def similarity_curves(
    curves: Mapping[str, Mapping[str, float]], *, label: str = "linear CKA"
) -> Figure:
    """Returns a similarity by layer, a curve for each pair with its mean (PARL, figure 2).

    Args:
        curves: by pair and layer, `Similarity.between`; all of the same layers.
        label: what is drawn.

    Example:
        >>> from robust_jax.analysis import similarity_curves
        >>> figure = similarity_curves({"members 0 and 1": {"conv1": 0.9, "conv2": 0.5}})
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [0.9, 0.5]
    """
    layers = _common_layers(curves)
    figure = style.new_figure(3.6)
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        y = np.array([curve[layer] for layer in layers])
        axes.plot(
            range(len(layers)), y, marker=style.marker(number), color=style.color(number),
            label=f"{style.name(name)} (mean {y.mean():.2f})", clip_on=False,
        )  # fmt: skip
    style.layer_ticks(axes, layers)
    axes.set_ylim(min(0, axes.get_ylim()[0]), 1)
    axes.set_ylabel(label)
    style.legend(figure, axes)
    return figure


@style.quiet()
def layer_curves(
    series: Mapping[str, Mapping[str, Float[AnyArray, "..."]]],
    *,
    label: str = r"$\|y_{adv} - y\|_2 \,/\, \|y\|_2$",
    logarithmic: bool = False,
) -> Figure:
    """Returns a number by layer: median over all examples and members, quartiles as a band.

    With `Perturbation.relative` it is KAP's figure A6.

    Args:
        series: by model and layer; all of the same layers.
        label: what is drawn.
        logarithmic: the number's axis.

    Example:
        >>> from robust_jax.analysis import layer_curves
        >>> relative = {"conv1": np.asarray([[1.0, 2.0, 3.0]]), "conv2": np.asarray([[4.0]])}
        >>> figure = layer_curves({"KAP": relative})
        >>> figure.axes[0].lines[0].get_ydata().tolist()  # medians over members and examples
        [2.0, 4.0]
    """
    layers = _common_layers(series)
    figure = style.new_figure(3.6)
    axes = figure.subplots()
    for number, (name, values) in enumerate(series.items()):
        for layer in layers:
            style.check_some(f"series[{name!r}][{layer!r}]", np.ravel(values[layer]))
        low, middle, high = (
            np.array([np.percentile(np.asarray(values[layer]), q) for layer in layers])
            for q in QUARTILES
        )
        places, color = np.arange(len(layers)), style.color(number)
        axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(places, middle, marker=style.marker(number), color=color, label=style.name(name))
    style.layer_ticks(axes, layers)
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
    style.legend(figure, axes)
    return figure


def _common_layers(series: Mapping[str, Mapping[str, object]]) -> list[str]:
    style.check_some("series", series)
    layers = [list(each) for each in series.values()]
    if any(each != layers[0] for each in layers):
        raise ValueError("Expected all series to have the same layers in the same order.")
    style.check_some("layers", layers[0])
    return layers[0]


@style.quiet()
def layer_histograms(
    series: Mapping[str, Mapping[str, Float[AnyArray, "..."]]],
    *,
    label: str = "activation",
    num_bins: int = 40,
    num_columns: int = 4,
) -> Figure:
    """Returns the distribution of a number in every layer (KAP, figures A4 and A5).

    Args:
        series: by kind of image (clean, noisy, adversarial) and layer; all of the same layers.
            What is not finite is left out.
        label: what is counted.
        num_bins: of each layer, from the smallest to the largest number of all series.
        num_columns: layers in a row.

    Example:
        >>> from robust_jax.analysis import layer_histograms
        >>> taps = {"conv1": np.zeros((2, 4)), "conv2": np.ones((2, 4))}
        >>> figure = layer_histograms({"clean": taps, "adversarial": taps}, num_bins=5)
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['conv1', 'conv2']
    """
    layers = _common_layers(series)
    num_rows = -(-len(layers) // num_columns)
    figure = style.new_figure(0.6 + 1.3 * num_rows)
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, layer in zip(grid, layers, strict=False):
        values = [np.asarray(each[layer]).ravel() for each in series.values()]
        values = [found[np.isfinite(found)] for found in values]
        edges = np.histogram_bin_edges(np.concatenate(values), num_bins)
        for number, (name, found) in enumerate(zip(series, values, strict=True)):
            counts, _ = np.histogram(found, edges)
            density = counts / (max(len(found), 1) * np.diff(edges))
            color = style.color(number)
            axes.stairs(density, edges, fill=True, color=color, alpha=0.25, linewidth=0)
            axes.stairs(density, edges, color=color, linewidth=1, label=style.name(name))
        axes.set_title(style.short(layer), fontsize=8)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelsize=7)
    for axes in grid[len(layers) :]:
        axes.set_visible(False)
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("density", fontsize=9)
    style.legend(figure, grid[0])
    return figure


@style.quiet()
def heat_map(
    values: Float[AnyArray, "r c"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    row_label: str = "",
    column_label: str = "",
    percent: bool = False,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Returns a matrix: CKA between layers, or adversarial examples of rows judged by columns.

    Up to 8 rows and columns have their numbers written in them.

    Args:
        values: numbers; nan is left white.
        rows: their names.
        columns: their names.
        label: what the numbers are.
        row_label: what the rows are.
        column_label: what the columns are.
        percent: are the numbers fractions, to be written as percent?
        limits: numbers of the lightest and the darkest colour; further ones look the same.

    Raises:
        ValueError: names and numbers do not fit.

    Example:
        >>> from robust_jax.analysis import heat_map
        >>> success = np.asarray([[1.0, 0.25], [0.5, 1.0]])  # of rows' examples on columns
        >>> figure = heat_map(success, ["A", "B"], ["A", "B"], label="success", percent=True)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['100%', '25%', '50%', '100%']
    """
    values = np.asarray(values)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"Expected values.shape={values.shape} = {(len(rows), len(columns))}.")
    style.check_some("values", values.ravel())
    most = max(values.shape)
    small = most <= 8
    size = (1.3 + 0.55 * len(rows), 2.4 + 0.6 * len(columns)) if small else (5.0, style.WIDTH)
    figure = style.new_figure(*size)
    axes = figure.subplots()
    image = axes.imshow(values, cmap=style.SEQUENTIAL, vmin=limits[0], vmax=limits[1])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    font = 8 if most <= 12 else 6
    turned = max(map(len, columns)) * len(columns) > 40
    axes.set_xticks(
        range(len(columns)), map(style.short, columns), rotation=90 if turned else 0, fontsize=font
    )
    axes.set_yticks(range(len(rows)), map(style.short, rows), fontsize=font)
    if small:
        middle = limits[0] + 0.6 * (limits[1] - limits[0])
        for row, column in np.argwhere(~np.isnan(values)):
            value = values[row, column]
            axes.text(
                column, row, f"{value:.0%}" if percent else f"{value:.2f}", ha="center",
                va="center", fontsize=8, color="white" if value > middle else "black",
            )  # fmt: skip
    axes.set(xlabel=column_label, ylabel=row_label)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    if percent:
        style.percent(bar.ax.yaxis)
    bar.outline.set_visible(False)
    return figure


@style.quiet()
def quartile_intervals(
    groups: Mapping[str, Float[AnyArray, " b"]], *, label: str, logarithmic: bool = False
) -> Figure:
    """Returns the quartiles of a number over examples, for each model (LPD, tables 2 and 3).

    A dot at the median, a bar from 25 to 75 %.

    Args:
        groups: by model; nan is left out, and said beside the name.
        label: what the number is.
        logarithmic: its axis; then no quartile may be 0 or less.

    Raises:
        ValueError: a model has no numbers, or one that a logarithmic axis does not have.

    Example:
        >>> from robust_jax.analysis import quartile_intervals
        >>> figure = quartile_intervals({"LPD": np.arange(5.0), "PDD": np.ones(5)}, label="L_s")
        >>> [name.get_text() for name in figure.axes[0].get_yticklabels()]
        ['LPD', 'PDD']
    """
    style.check_some("groups", groups)
    names, found = [], []
    for name, values in groups.items():
        numbers = np.asarray(values)
        kept = numbers[~np.isnan(numbers)]
        style.check_some(f"groups[{name!r}]", kept)
        missing = 1 - len(kept) / len(numbers)
        names.append(f"{name}\n({missing:.1%} undefined)" if missing else name)
        found.append(np.percentile(kept, QUARTILES))
    if logarithmic and min(low for low, _, _ in found) <= 0:
        raise ValueError("Expected quartiles > 0 on a logarithmic axis.")
    figure = style.new_figure(0.9 + 0.4 * len(groups))
    axes = figure.subplots()
    for number, (low, middle, high) in enumerate(found):
        axes.plot([low, high], [number, number], color=style.COLORS[0], linewidth=5, alpha=0.35)
        axes.plot(middle, number, "o", color=style.COLORS[0])
        axes.annotate(
            f"{middle:.3g}", (middle, number), xytext=(0, 6), textcoords="offset points",
            ha="center", fontsize=7,
        )  # fmt: skip
    if logarithmic:
        axes.set_xscale("log")
    axes.set_yticks(range(len(names)), map(style.name, names))
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{label} (median, quartiles)")
    return figure


@style.quiet()
def embedding_scatter(
    panels: Mapping[str, Float[AnyArray, "n 2"]],
    labels: Int[AnyArray, " n"],
    class_names: Sequence[str],
) -> Figure:
    """Returns embeddings side by side, examples coloured by class (REGroup, figure 5).

    Args:
        panels: by title, for instance of the positive, the negative and all responses.
        labels: class of each example.
        class_names: of all classes; more than 20 in the picture are not named.

    Example:
        >>> from robust_jax.analysis import embedding_scatter
        >>> points, labels = np.zeros((4, 2)), np.asarray([0, 0, 1, 1])  # `tsne`
        >>> figure = embedding_scatter({"both responses": points}, labels, ["cat", "dog"])
        >>> figure.axes[0].get_title()
        'both responses'
    """
    style.check_some("panels", panels)
    style.check_some("labels", labels)
    figure = style.new_figure(style.WIDTH / len(panels) + 0.7 if len(panels) > 1 else 4.0)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    classes = np.asarray(labels)
    for axes, (title, points) in zip(grid, panels.items(), strict=True):
        for number in np.unique(classes).tolist():
            chosen = np.asarray(points)[classes == number]
            axes.scatter(
                *chosen.T, s=14, color=style.color(number), marker=style.marker(number),
                linewidth=0, alpha=0.8, label=style.name(class_names[int(number)]),
            )  # fmt: skip
        axes.set_title(style.name(title))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        axes.set_box_aspect(1)
    if len(np.unique(classes)) <= MAX_NAMED:
        style.legend(figure, grid[0])
    return figure
