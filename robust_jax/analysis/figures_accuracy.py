"""Figures of shares of examples, with 95 % Wilson intervals, and of what decides them.

Everywhere `correct` is [b]: is the decision on an example right?
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robust_jax import metrics
from robust_jax.analysis import style
from robust_jax.analysis.diversity import keep_rate
from robust_jax.analysis.style import AnyArray
from robust_jax.attacks.threat import Norm
from robust_jax.methods import LaplaceRates

Correct = Bool[AnyArray, " _"]  # groups may differ in size

NORMS: dict[Norm, str] = {
    "linf": r"$L_\infty$",
    "l2": r"$L_2$",
    "l1": r"$L_1$",
    "l0": r"$L_0$",
    "l0_values": r"$L_0$",
}
COUNTED: dict[Norm, str] = {"l0": "pixels changed", "l0_values": "channels of pixels changed"}
"""What a radius is, of norms that count."""


class Shares(NamedTuple):
    """Shares of examples and their 95 % intervals."""

    value: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]


def shares(correct: Sequence[Correct]) -> Shares:
    """Returns the share of every group of examples that is right, and its Wilson interval."""
    counts = [(int(np.sum(each)), len(each)) for each in correct]
    bounds = np.array([metrics.interval(*count) for count in counts]).reshape(-1, 2)
    value = np.array([successes / trials for successes, trials in counts])
    return Shares(value, bounds[:, 0], bounds[:, 1])


@style.quiet()
def accuracy_curves(
    curves: Mapping[str, Mapping[float, Correct]],
    *,
    norm: Norm = "linf",
    unit: Literal["1", "1/255"] = "1",
    logarithmic: bool = False,
) -> Figure:
    """Returns accuracy against the size of perturbations, a curve for each defence or attack.

    Args:
        curves: by name and eps; eps for pixels in [0, 1].
        norm: of eps.
        unit: of the axis: the pixels' range or one grey level.
        logarithmic: eps to base 2, as figure 3 of the LPD paper; then none may be 0.

    Raises:
        ValueError: an eps is 0 on a logarithmic axis.
    """
    style.check_some("curves", curves)
    if logarithmic and any(eps <= 0 for curve in curves.values() for eps in curve):
        raise ValueError("Expected every eps > 0 on a logarithmic axis.")
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        radii = sorted(curve)
        x = np.array(radii) * (255 if unit == "1/255" else 1)
        y = shares([curve[eps] for eps in radii])
        color = style.color(number)
        axes.fill_between(x, y.low, y.high, color=color, alpha=0.15, linewidth=0)
        axes.plot(x, y.value, marker=style.marker(number), color=color, label=name, clip_on=False)
    if logarithmic:
        axes.set_xscale("log", base=2)
    else:
        axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    style.percent(axes.yaxis)
    units = COUNTED.get(norm, "1/255" if unit == "1/255" else "pixels in [0, 1]")
    axes.set(xlabel=f"perturbation ε, {NORMS[norm]} ({units})", ylabel="accuracy")
    style.legend(figure, axes)
    return figure


class Certified(NamedTuple):
    """What certification found on every example.

    Attributes:
        radius: certified around the example.
        correct: is its certified class right? False where the certifier abstained.
    """

    radius: Float[AnyArray, " b"]
    correct: Bool[AnyArray, " b"]


@style.quiet()
def certified_curves(
    curves: Mapping[str, Certified], *, norm: Norm = "l2", num_points: int = 201
) -> Figure:
    """Returns certified accuracy against the radius (KAP, figure A8).

    At radius r it is the share of examples that are right with a certificate of at least r.

    Args:
        curves: by name, of a defence or a noise level.
        norm: of the radius.
        num_points: radii from 0 to just beyond the largest.
    """
    style.check_some("curves", curves)
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    largest = max(float(np.max(found.radius)) for found in curves.values())
    radii = np.linspace(0, 1.02 * largest, num_points)
    for number, (name, found) in enumerate(curves.items()):
        radius, correct = np.asarray(found.radius), np.asarray(found.correct)
        y = shares([correct & (radius >= r) for r in radii])
        color = style.color(number)
        axes.fill_between(radii, y.low, y.high, color=color, alpha=0.15, linewidth=0)
        axes.plot(radii, y.value, color=color, label=name)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    style.percent(axes.yaxis)
    axes.set(
        xlabel=f"certified radius, {NORMS[norm]} (pixels in [0, 1])", ylabel="certified accuracy"
    )
    style.legend(figure, axes)
    return figure


@style.quiet()
def accuracy_bars(groups: Mapping[str, Mapping[str, Correct]]) -> Figure:
    """Returns accuracies side by side: by attack those of several defences or rules.

    REGroup's figure 3 has an attack a group, and in it the positive, the negative and both
    responses.

    Args:
        groups: by group and series; a series may be missing in a group.
    """
    style.check_some("groups", groups)
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure = style.new_figure(3.2)
    axes = figure.subplots()
    width = 0.8 / len(series)
    for number, name in enumerate(series):
        places = [place for place, group in enumerate(groups.values()) if name in group]
        y = shares([group[name] for group in groups.values() if name in group])
        axes.bar(
            np.array(places) + (number - (len(series) - 1) / 2) * width,
            y.value,
            0.9 * width,
            yerr=np.maximum([y.value - y.low, y.high - y.value], 0),
            error_kw={"ecolor": style.GREY, "elinewidth": 0.8},
            color=style.color(number),
            label=name,
        )
    crowded = sum(len(name) + 2 for name in groups) > 75
    axes.set_xticks(
        range(len(groups)),
        list(groups),
        rotation=30 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor",
    )
    axes.set_ylim(0, 1)
    axes.grid(axis="x", visible=False)
    style.percent(axes.yaxis)
    axes.set_ylabel("accuracy")
    style.legend(figure, axes)
    return figure


@style.quiet()
def accuracy_by_layers(
    by_depth: Mapping[str, Bool[AnyArray, "l _"]],
    by_layer: Mapping[str, Bool[AnyArray, "l _"]] | None = None,
    *,
    threshold: float | None = None,
) -> Figure:
    """Returns accuracy against the number k of voting layers (REGroup, figures 4 and 6).

    Args:
        by_depth: by attack, `LayerVotes.by_depth`: entry k - 1 is that of the last k layers.
        by_layer: by attack, `LayerVotes.by_layer` in network order; drawn dashed at the k at which
            the layer is the first to vote.
        threshold: accuracy of a layer alone from which on it votes (75 % in the paper).
    """
    style.check_some("by_depth", by_depth)
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    for number, (name, correct) in enumerate(by_depth.items()):
        y = shares(list(np.asarray(correct)))
        k = np.arange(1, len(y.value) + 1)
        color = style.color(number)
        axes.fill_between(k, y.low, y.high, color=color, alpha=0.15, linewidth=0)
        axes.plot(k, y.value, marker=style.marker(number), color=color, label=name, clip_on=False)
    for number, (name, correct) in enumerate((by_layer or {}).items(), len(by_depth)):
        y = shares(list(np.asarray(correct)[::-1]))
        k = np.arange(1, len(y.value) + 1)
        axes.plot(
            k, y.value, "--", marker=style.marker(number), color=style.color(number), linewidth=1,
            label=f"{name}, each layer alone", clip_on=False,
        )  # fmt: skip
    if threshold is not None:
        axes.axhline(threshold, color=style.GREY, linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 1)
    style.percent(axes.yaxis)
    axes.set(xlabel="k, the last layers that vote", ylabel="accuracy")
    style.legend(figure, axes)
    return figure


@style.quiet()
def confusion_matrix(
    labels: Int[AnyArray, " b"], predictions: Int[AnyArray, " b"], class_names: Sequence[str]
) -> Figure:
    """Returns the share of each class's examples that are predicted as each class.

    Args:
        labels: class of each example.
        predictions: class predicted.
        class_names: of all classes, in order; a class without examples has a white row.

    Raises:
        ValueError: a class has no name.
    """
    num_classes = len(class_names)
    pairs = np.stack([np.asarray(labels), np.asarray(predictions)])
    if pairs.size == 0 or pairs.min() < 0 or pairs.max() >= num_classes:
        raise ValueError(f"Expected labels and predictions in [0, {num_classes}), the class names.")
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, tuple(pairs), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = style.new_figure(4.6, 5.4)
    axes = figure.subplots()
    image = axes.imshow(share, cmap=style.SEQUENTIAL, vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if num_classes <= 20:
        axes.set_xticks(range(num_classes), class_names, rotation=90)
        axes.set_yticks(range(num_classes), class_names)
    if num_classes <= 12:
        for row, column in np.argwhere(counts):
            value = share[row, column]
            axes.text(
                column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7,
                color="white" if value > 0.6 else "black",
            )  # fmt: skip
    axes.set(xlabel="predicted class", ylabel="true class")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    style.percent(bar.ax.yaxis)
    bar.outline.set_visible(False)
    return figure


@style.quiet()
def margin_scatter(bounds: Mapping[str, Float[AnyArray, " b"]]) -> Figure:
    """Returns the examples' smallest certified margins (LPD, figure 2): right for sure above 0.

    Args:
        bounds: by model, lower bound on the smallest margin of each example, the same examples of
            all models. Models of other logit scales have other margins: only the sign, whose share
            stands beside the name, compares them.
    """
    style.check_some("bounds", bounds)
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    for number, (name, bound) in enumerate(bounds.items()):
        values = np.asarray(bound)
        axes.scatter(
            np.arange(len(values)),
            values,
            s=12,
            marker=style.marker(number),
            facecolor="none",
            edgecolor=style.color(number),
            linewidth=0.9,
            label=f"{name} ({np.mean(values > 0):.0%} above 0)",
        )
    axes.set(xlabel="example", ylabel="lower bound of the margin (logits)")
    style.legend(figure, axes)
    return figure


@style.quiet()
def keep_rate_curves(rates: Mapping[str, LaplaceRates], *, largest: float = 3.0) -> Figure:
    """Returns LPD's keep rate against the value z of its kernel (LPD, figure 1).

    Args:
        rates: by name.
        largest: largest z.
    """
    style.check_some("rates", rates)
    figure = style.new_figure(3.0)
    axes = figure.subplots()
    z = jnp.linspace(0, largest, 301)
    for number, (name, each) in enumerate(rates.items()):
        y = np.asarray(keep_rate(each, z))
        axes.plot(z, y, color=style.color(number), label=name)
    axes.set_xlim(0, largest)
    axes.set_ylim(0, 1)
    style.percent(axes.yaxis)
    axes.set(xlabel="value of the kernel, z", ylabel="keep rate")
    style.legend(figure, axes)
    return figure
