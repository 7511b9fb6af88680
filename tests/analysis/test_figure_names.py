"""What series and classes are called stands in figures letter by letter."""

import html
import io
import re

import matplotlib
import numpy as np
import pytest

from robust_jax import analysis
from robust_jax.methods import LaplaceRates

NAMES = ("_one", "two $x$ or $y$", "50 %")
VALUES = np.asarray([1.0, 2.0, 4.0])
RIGHT = np.asarray([True, False, True])
IMAGES = np.linspace(0, 1, 3 * 16).reshape(3, 4, 4, 1)
LAYERS = {"conv_1": VALUES, "$y$": 2 * VALUES}


def each(value):
    return dict.fromkeys(NAMES, value)


FIGURES = {
    "accuracy_curves": lambda: analysis.accuracy_curves(each({0.0: RIGHT, 0.1: RIGHT})),
    "certified_curves": lambda: analysis.certified_curves(each(analysis.Certified(VALUES, RIGHT))),
    "accuracy_bars": lambda: analysis.accuracy_bars(each(each(RIGHT))),
    "accuracy_by_layers": lambda: analysis.accuracy_by_layers(
        each(np.stack([RIGHT, ~RIGHT])), each(np.stack([RIGHT, ~RIGHT]))
    ),
    "confusion_matrix": lambda: analysis.confusion_matrix(np.arange(3), np.arange(3), NAMES),
    "margin_scatter": lambda: analysis.margin_scatter(each(VALUES)),
    "keep_rate_curves": lambda: analysis.keep_rate_curves(each(LaplaceRates())),
    "similarity_curves": lambda: analysis.similarity_curves(each({"a": 0.1, "b": 0.2})),
    "layer_curves": lambda: analysis.layer_curves(each(LAYERS)),
    "layer_histograms": lambda: analysis.layer_histograms(each(LAYERS)),
    "heat_map": lambda: analysis.heat_map(np.eye(3), NAMES, NAMES, label="share"),
    "quartile_intervals": lambda: analysis.quartile_intervals(each(VALUES), label="L"),
    "embedding_scatter": lambda: analysis.embedding_scatter(
        each(np.eye(3)[:, :2]), np.arange(3), NAMES
    ),
    "image_twins": lambda: analysis.image_twins(
        IMAGES, IMAGES[::-1], names=NAMES, perturbed_names=NAMES
    ),
    "gradient_pictures": lambda: analysis.gradient_pictures(IMAGES[0], IMAGES - 0.5, NAMES),
}


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("name", FIGURES)
def test_names_are_letters(name):
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        FIGURES[name]().savefig(stream, format="svg")
    # Beside mathematics its letters stand in a comment.
    written = html.unescape(re.sub(r"<!--.*?-->", "", stream.getvalue(), flags=re.DOTALL))
    for letters in NAMES:
        assert letters in written
    if "layer_" in name:
        assert "$y$" in written


@pytest.mark.usefixtures("without_type_checks")
def test_numbers_are_names_too():
    figure = analysis.confusion_matrix(np.arange(3), np.arange(3), range(3))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "1", "2"]


def test_every_figure_with_names_is_here():
    drawing = {
        name
        for name in analysis.__all__
        if getattr(analysis, name).__annotations__.get("return") is matplotlib.figure.Figure
    }
    assert drawing - {*FIGURES} == {"filter_sheet"}


def test_what_is_no_number_is_in_no_bin():
    known = np.asarray([0.0, 1.0, 1.0, 3.0])
    unknown = np.asarray([np.nan, np.inf, 3.0, np.nan])
    figure = analysis.layer_histograms({"a": {"x": known}, "b": {"x": unknown}}, num_bins=3)
    bars = [patch.get_data() for patch in figure.axes[0].patches[1::2]]
    assert [bar.values.tolist() for bar in bars] == [[0.25, 0.5, 0.25], [0.0, 0.0, 1.0]]
    assert analysis.layer_histograms({"a": {"x": np.full(3, np.nan)}}).axes


@pytest.mark.parametrize(
    "draw",
    [
        lambda: analysis.accuracy_curves({"a": {0.1: np.zeros(0, bool)}}),
        lambda: analysis.certified_curves(
            {"a": analysis.Certified(np.zeros(0), np.zeros(0, bool))}
        ),
        lambda: analysis.accuracy_bars({"a": {"b": np.zeros(0, bool)}}),
        lambda: analysis.margin_scatter({"a": np.zeros(0)}),
        lambda: analysis.layer_curves({"a": {}}),
        lambda: analysis.layer_curves({"a": {"x": np.zeros(0)}}),
        lambda: analysis.gradient_pictures(IMAGES[0], np.zeros((0, 4, 4, 1)), []),
        lambda: analysis.heat_map(np.zeros((0, 2)), [], ["a", "b"], label="share"),
        lambda: analysis.embedding_scatter({"a": np.zeros((0, 2))}, np.zeros(0, int), ["a"]),
    ],
)
def test_nothing_to_draw_is_one_line(draw):
    with pytest.raises(ValueError, match=r"Expected .* not to be empty\."):
        draw()
