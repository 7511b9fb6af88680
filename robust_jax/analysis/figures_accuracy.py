"""Figures of shares of examples, with 95 % Wilson intervals.

Everywhere `correct` is [b]: is the decision on an example right?
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robust_jax import metrics
from robust_jax.analysis import style
from robust_jax.analysis.style import AnyArray
from robust_jax.attacks.threat import Norm

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
    """Shares of examples and their 95 % intervals.

    Attributes:
        value: share of each of n groups.
        low: lower end of its Wilson interval.
        high: upper end.

    Example:
        >>> from robust_jax.analysis import shares
        >>> found = shares([np.repeat([True, False], 50)])  # right on 50 of 100
        >>> found.value.tolist(), found.low.round(2).tolist(), found.high.round(2).tolist()
        ([0.5], [0.4], [0.6])
    """

    value: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]


def shares(correct: Sequence[Correct]) -> Shares:
    """Returns the share of every group of examples that is right, and its Wilson interval.

    Args:
        correct: of each group, is the decision on an example right?

    Raises:
        ValueError: a group has no examples.

    Example:
        >>> from robust_jax.analysis import shares
        >>> shares([np.ones(4, bool), np.asarray([True, False])]).value.tolist()
        [1.0, 0.5]

    References:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    for number, each in enumerate(correct):
        style.check_some(f"correct[{number}]", each)
    counts = [(int(np.sum(each)), len(each)) for each in correct]
    bounds = np.array([metrics.interval(*count) for count in counts]).reshape(-1, 2)
    value = np.array([successes / trials for successes, trials in counts])
    return Shares(value, bounds[:, 0], bounds[:, 1])


def _draw(
    axes: Axes, x: np.ndarray, y: Shares, number: int, name: str, *, marked: bool = True
) -> None:
    """Draws the shares of a series, its number and name given, in the band of their intervals."""
    color, marker = style.color(number), style.marker(number) if marked else None
    axes.fill_between(x, y.low, y.high, color=color, alpha=0.15, linewidth=0)
    axes.plot(x, y.value, marker=marker, color=color, label=style.name(name), clip_on=not marked)


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

    Example:
        >>> from robust_jax.analysis import accuracy_curves
        >>> by_eps = {0.0: np.ones(4, bool), 8 / 255: np.asarray([True, True, True, False])}
        >>> figure = accuracy_curves({"PGD": by_eps}, unit="1/255")  # figure.savefig("curves.pdf")
        >>> figure.axes[0].lines[0].get_xydata().tolist()
        [[0.0, 1.0], [8.0, 0.75]]
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
        _draw(axes, x, y, number, name)
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

    Example:
        >>> from robust_jax.analysis import Certified
        >>> found = Certified(radius=np.asarray([0.5, 0.2]), correct=np.asarray([True, True]))
        >>> (found.correct & (found.radius >= 0.25)).mean().item()  # certified accuracy at 0.25
        0.5
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

    Example:
        >>> from robust_jax.analysis import Certified, certified_curves
        >>> found = Certified(radius=np.asarray([0.5, 0.2]), correct=np.asarray([True, True]))
        >>> figure = certified_curves({"KAP": found}, num_points=3)
        >>> figure.axes[0].lines[0].get_ydata().tolist()  # at 0, 0.255 and 0.51
        [1.0, 0.5, 0.0]
    """
    style.check_some("curves", curves)
    for name, found in curves.items():
        style.check_some(f"curves[{name!r}].radius", found.radius)
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    largest = max(float(np.max(found.radius)) for found in curves.values())
    radii = np.linspace(0, 1.02 * largest, num_points)
    for number, (name, found) in enumerate(curves.items()):
        radius, correct = np.asarray(found.radius), np.asarray(found.correct)
        y = shares([correct & (radius >= r) for r in radii])
        _draw(axes, radii, y, number, name, marked=False)
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

    Example:
        >>> from robust_jax.analysis import accuracy_bars
        >>> figure = accuracy_bars({"PGD": {"plain": np.zeros(4, bool), "KAP": np.ones(4, bool)}})
        >>> [bar.get_height().item() for bar in figure.axes[0].patches]
        [0.0, 1.0]
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
            label=style.name(name),
        )
    crowded = sum(len(name) + 2 for name in groups) > 75
    axes.set_xticks(
        range(len(groups)),
        [style.name(group) for group in groups],
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

    Example:
        >>> from robust_jax.analysis import accuracy_by_layers
        >>> by_depth = {"PGD": np.asarray([[True, False], [True, True]])}  # [l b]
        >>> figure = accuracy_by_layers(by_depth, threshold=0.75)
        >>> figure.axes[0].lines[0].get_xydata().tolist()
        [[1.0, 0.5], [2.0, 1.0]]
    """
    style.check_some("by_depth", by_depth)
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    for number, (name, correct) in enumerate(by_depth.items()):
        y = shares(list(np.asarray(correct)))
        k = np.arange(1, len(y.value) + 1)
        _draw(axes, k, y, number, name)
    for number, (name, correct) in enumerate((by_layer or {}).items(), len(by_depth)):
        y = shares(list(np.asarray(correct)[::-1]))
        k = np.arange(1, len(y.value) + 1)
        axes.plot(
            k, y.value, "--", marker=style.marker(number), color=style.color(number), linewidth=1,
            label=f"{style.name(name)}, each layer alone", clip_on=False,
        )  # fmt: skip
    if threshold is not None:
        axes.axhline(threshold, color=style.GREY, linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 1)
    style.percent(axes.yaxis)
    axes.set(xlabel="k, the last layers that vote", ylabel="accuracy")
    style.legend(figure, axes)
    return figure
