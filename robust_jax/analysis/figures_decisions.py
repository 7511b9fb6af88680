"""Figures of what decides an example: classes, certified margins, rates at which features stay."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from robust_jax.analysis import style
from robust_jax.analysis.diversity import keep_rate
from robust_jax.analysis.style import AnyArray
from robust_jax.methods import LaplaceRates


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

    Example:
        >>> from robust_jax.analysis import confusion_matrix
        >>> labels, predictions = np.asarray([0, 0, 1, 1]), np.asarray([0, 1, 1, 1])
        >>> figure = confusion_matrix(labels, predictions, ["cat", "dog"])
        >>> figure.axes[0].images[0].get_array().tolist()  # rows are the true classes
        [[0.5, 0.5], [0.0, 1.0]]
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
        names = [style.name(each) for each in class_names]
        axes.set_xticks(range(num_classes), names, rotation=90)
        axes.set_yticks(range(num_classes), names)
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

    Example:
        >>> from robust_jax.analysis import margin_scatter
        >>> figure = margin_scatter({"LPD": np.asarray([0.5, -0.25, 1.0, 2.0])})
        >>> figure.axes[0].collections[0].get_label()
        'LPD (75% above 0)'
    """
    style.check_some("bounds", bounds)
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    for number, (name, bound) in enumerate(bounds.items()):
        values = np.asarray(bound)
        style.check_some(f"bounds[{name!r}]", values)
        axes.scatter(
            np.arange(len(values)),
            values,
            s=12,
            marker=style.marker(number),
            facecolor="none",
            edgecolor=style.color(number),
            linewidth=0.9,
            label=f"{style.name(name)} ({np.mean(values > 0):.0%} above 0)",
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

    Example:
        >>> from robust_jax.analysis import keep_rate_curves
        >>> from robust_jax.methods import LaplaceRates
        >>> figure = keep_rate_curves({"LPD": LaplaceRates()}, largest=2.0)
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_xlim()[1].item()
        ('value of the kernel, z', 2.0)
    """
    style.check_some("rates", rates)
    figure = style.new_figure(3.0)
    axes = figure.subplots()
    z = jnp.linspace(0, largest, 301)
    for number, (name, each) in enumerate(rates.items()):
        y = np.asarray(keep_rate(each, z))
        axes.plot(z, y, color=style.color(number), label=style.name(name))
    axes.set_xlim(0, largest)
    axes.set_ylim(0, 1)
    style.percent(axes.yaxis)
    axes.set(xlabel="value of the kernel, z", ylabel="keep rate")
    style.legend(figure, axes)
    return figure
