"""Figures carry the numbers they are given, and can be saved."""

import io
import itertools

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib import colors
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from robust_jax import analysis, metrics
from robust_jax.methods import LaplaceRates

RNG = np.random.default_rng(0)


def right(num_right, num_examples=50):
    """Returns examples of which so many are right."""
    return RNG.permutation(np.arange(num_examples) < num_right)


def line(axes, label):
    (found,) = (each for each in axes.lines if each.get_label() == label)
    return found


def curve(axes, label):
    return np.stack(line(axes, label).get_data())


def band(axes, number):
    """Returns the places and the edges of a filled band."""
    polygons = [each for each in axes.collections if isinstance(each, PolyCollection)]
    vertices = polygons[number].get_paths()[0].vertices
    edges = {}
    for x in np.unique(vertices[:, 0]):
        y = vertices[vertices[:, 0] == x, 1]
        edges[float(x)] = (y.min(), y.max())
    return edges


def saved(figure):
    """Returns the figure drawn as pixels."""
    assert isinstance(figure, Figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="rgba", dpi=50)
    pixels = np.frombuffer(stream.getvalue(), np.uint8)
    assert pixels.std() > 0
    return figure


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_accuracy_curves_have_their_shares_and_intervals():
    curves = {"a": {0.02: right(10), 0.0: right(45)}, "b": {0.0: right(30), 0.01: right(0)}}
    figure = saved(analysis.accuracy_curves(curves))
    (axes,) = figure.axes
    np.testing.assert_allclose(curve(axes, "a"), [[0, 0.02], [0.9, 0.2]])
    np.testing.assert_allclose(curve(axes, "b"), [[0, 0.01], [0.6, 0]])
    assert band(axes, 0)[0.02] == pytest.approx(metrics.interval(10, 50))
    assert band(axes, 1)[0.01] == pytest.approx(metrics.interval(0, 50))
    assert legend_texts(figure) == ["a", "b"]
    assert axes.yaxis.get_major_formatter()(0.4) == "40%"


def test_accuracy_curves_in_grey_levels_and_powers_of_two():
    figure = analysis.accuracy_curves({"a": {2 / 255: right(5), 8 / 255: right(4)}}, unit="1/255")
    np.testing.assert_allclose(curve(figure.axes[0], "a")[0], [2, 8])
    assert "1/255" in figure.axes[0].get_xlabel()
    figure = analysis.accuracy_curves({"a": {0.5: right(5)}}, logarithmic=True, norm="l2")
    assert figure.axes[0].get_xscale() == "log"
    assert "L_2" in figure.axes[0].get_xlabel()
    with pytest.raises(ValueError, match="Expected every eps > 0"):
        analysis.accuracy_curves({"a": {0.0: right(5)}}, logarithmic=True)
    with pytest.raises(ValueError, match="Expected curves not to be empty"):
        analysis.accuracy_curves({})


def test_certified_curves_count_certificates_of_at_least_the_radius():
    radius, correct = np.array([0.0, 0.5, 1.0, 1.0]), np.array([True, True, True, False])
    figure = analysis.certified_curves({"a": analysis.Certified(radius, correct)}, num_points=103)
    radii, share = curve(saved(figure).axes[0], "a")
    assert radii[0] == 0
    assert radii[-1] > 1
    expected = [0.75 if r == 0 else 0.5 if r <= 0.5 else 0.25 if r <= 1 else 0 for r in radii]
    np.testing.assert_allclose(share, expected)


def test_bars_have_their_shares_and_intervals():
    groups = {"clean": {"pos": right(40), "both": right(45)}, "pgd": {"both": right(5)}}
    figure = saved(analysis.accuracy_bars(groups))
    (axes,) = figure.axes
    positive, both = (c for c in axes.containers if c.get_label() in ("pos", "both"))
    assert [bar.get_height() for bar in positive] == [0.8]
    assert [bar.get_height() for bar in both] == [0.9, 0.1]
    (segments,) = both.errorbar.lines[2]
    ends = [segment[:, 1] for segment in segments.get_segments()]
    np.testing.assert_allclose(ends, [metrics.interval(45, 50), metrics.interval(5, 50)])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["clean", "pgd"]
    # Beside each other, around the group's place.
    centres = [bar.get_x() + bar.get_width() / 2 for bar in (positive[0], both[0], both[1])]
    np.testing.assert_allclose(centres, [-0.2, 0.2, 1.2])


def test_accuracy_by_layers_counts_from_the_last():
    by_depth = np.stack([right(40), right(30), right(20)])
    by_layer = np.stack([right(5), right(10), right(40)])
    figure = analysis.accuracy_by_layers({"a": by_depth}, {"a": by_layer}, threshold=0.75)
    (axes,) = saved(figure).axes
    np.testing.assert_allclose(curve(axes, "a"), [[1, 2, 3], [0.8, 0.6, 0.4]])
    np.testing.assert_allclose(curve(axes, "a, each layer alone"), [[1, 2, 3], [0.8, 0.2, 0.1]])
    assert axes.lines[-1].get_ydata() == [0.75, 0.75]


def test_confusion_matrix():
    figure = analysis.confusion_matrix(
        np.array([0, 0, 0, 1]), np.array([0, 0, 2, 1]), ["a", "b", "c"]
    )
    (axes, _) = saved(figure).axes
    expected = [[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "67", (2, 0): "33", (1, 1): "100"}
    with pytest.raises(ValueError, match=r"Expected labels and predictions in \[0, 2\)"):
        analysis.confusion_matrix(np.array([0]), np.array([2]), ["a", "b"])


def test_margins_and_their_share_above_zero():
    figure = saved(analysis.margin_scatter({"a": np.array([1.0, -2.0, 0.5, 3.0])}))
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(points, [[0, 1], [1, -2], [2, 0.5], [3, 3]])
    assert legend_texts(figure) == ["a (75% above 0)"]


def test_keep_rates_of_the_papers_parameters():
    figure = saved(analysis.keep_rate_curves({"paper": LaplaceRates()}))
    z, rate = curve(figure.axes[0], "paper")
    np.testing.assert_allclose(rate, 0.85 * np.exp(-z / 0.5) + 0.127, rtol=1e-5)


LAYERS = ("00.stem.conv", "01.layer1.conv", "02.head")


def values(scale):
    return {layer: scale * RNG.normal(size=(2, 9)) ** 2 for layer in LAYERS}


def test_similarity_curves_and_their_means():
    pairs = {"0, 1": dict(zip(LAYERS, (0.9, 0.5, 0.4), strict=True))}
    figure = saved(analysis.similarity_curves(pairs))
    np.testing.assert_allclose(curve(figure.axes[0], "0, 1 (mean 0.60)")[1], [0.9, 0.5, 0.4])
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names == ["stem.conv", "layer1.conv", "head"]
    with pytest.raises(ValueError, match="Expected all series to have the same layers"):
        analysis.similarity_curves({"a": {"00.x": 1.0}, "b": {"00.y": 1.0}})


def test_layer_curves_are_medians_between_quartiles():
    series = {"a": values(1), "b": values(2)}
    (axes,) = saved(analysis.layer_curves(series)).axes
    for number, (name, each) in enumerate(series.items()):
        quartiles = np.array([np.percentile(each[layer], [25, 50, 75]) for layer in LAYERS])
        np.testing.assert_allclose(curve(axes, name)[1], quartiles[:, 1])
        edges = np.array(list(band(axes, number).values()))
        np.testing.assert_allclose(edges, quartiles[:, [0, 2]])


def test_layer_histograms_share_their_bins():
    series = {"clean": values(1), "noisy": values(3)}
    figure = saved(analysis.layer_histograms(series, num_bins=5))
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in visible] == ["stem.conv", "layer1.conv", "head"]
    for axes, layer in zip(visible, LAYERS, strict=True):
        outlines = [patch for patch in axes.patches if patch.get_label() in series]
        both = np.concatenate([each[layer].ravel() for each in series.values()])
        edges = np.linspace(both.min(), both.max(), 6)
        for outline, each in zip(outlines, series.values(), strict=True):
            found = outline.get_data()
            np.testing.assert_allclose(found.edges, edges)
            counts, _ = np.histogram(each[layer], edges)
            np.testing.assert_allclose(found.values * np.diff(edges) * 18, counts)


def test_heat_map_writes_its_numbers():
    matrix = np.array([[0.0, 0.25, 1.0], [0.5, 0.125, np.nan]])
    figure = analysis.heat_map(
        matrix, ["a", "b"], ["00.x", "y", "z"], label="accuracy", percent=True, row_label="from"
    )
    axes, bar = saved(figure).axes
    np.testing.assert_array_equal(np.ma.filled(axes.images[0].get_array(), np.nan), matrix)
    assert [t.get_text() for t in axes.texts] == ["0%", "25%", "100%", "50%", "12%"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["x", "y", "z"]
    assert bar.get_ylabel() == "accuracy"
    large = np.zeros((9, 9))
    names = [str(n) for n in range(9)]
    assert len(analysis.heat_map(large, names, names, label="CKA").axes[0].texts) == 0
    with pytest.raises(ValueError, match=r"Expected values.shape=\(2, 3\) = \(2, 2\)"):
        analysis.heat_map(matrix, ["a", "b"], ["x", "y"], label="accuracy")


def test_quartile_intervals():
    groups = {"a": np.array([1.0, 2.0, 3.0, 4.0, 5.0]), "b": np.array([1.0, np.nan, 3.0, np.nan])}
    (axes,) = saved(analysis.quartile_intervals(groups, label="L")).axes
    found = [each.get_data() for each in axes.lines]
    np.testing.assert_allclose(found[0][0], [2, 4])
    np.testing.assert_allclose(found[1][0], [3])
    np.testing.assert_allclose(found[2][0], [1.5, 2.5])
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["a", "b\n(50.0% undefined)"]
    with pytest.raises(ValueError, match="Expected quartiles > 0"):
        analysis.quartile_intervals({"a": np.array([-1.0, 2.0])}, label="L", logarithmic=True)
    with pytest.raises(ValueError, match=r"Expected groups\['a'\] not to be empty"):
        analysis.quartile_intervals({"a": np.array([np.nan])}, label="L")


def test_embeddings_by_class():
    points = {"one": RNG.normal(size=(6, 2)), "two": RNG.normal(size=(6, 2))}
    labels = np.array([0, 1, 0, 2, 2, 2])
    figure = saved(analysis.embedding_scatter(points, labels, ["a", "b", "c"]))
    for axes, (title, embedded) in zip(figure.axes, points.items(), strict=True):
        assert axes.get_title() == title
        for number, found in enumerate(axes.collections):
            np.testing.assert_allclose(found.get_offsets(), embedded[labels == number])
    assert legend_texts(figure) == ["a", "b", "c"]


def picture(axes):
    return np.asarray(axes.images[0].get_array())


@pytest.mark.parametrize("channels", [1, 3])
def test_twins_and_their_amplified_difference(channels):
    clean = RNG.uniform(0.2, 0.8, size=(2, 4, 4, channels))
    twins = clean + RNG.choice([-0.1, 0.0, 0.05], size=clean.shape)
    figure = saved(
        analysis.image_twins(clean, twins, names=["cat", "dog"], perturbed_names=["dog", "cat"])
    )
    grid = np.array(figure.axes).reshape(3, 2)
    for number in range(2):
        shown = [picture(axes).reshape(clean[0].shape) for axes in grid[:, number]]
        np.testing.assert_allclose(shown[0], clean[number])
        np.testing.assert_allclose(shown[1], twins[number])
        np.testing.assert_allclose(shown[2], 0.5 + 5 * (twins - clean)[number], atol=1e-9)
    assert [axes.get_title() for axes in grid[:2].ravel()] == ["cat", "dog", "dog", "cat"]
    assert grid[2, 0].get_ylabel() == "difference\n$\\times$ 5"


@pytest.mark.slow
def test_gradient_pictures_and_their_cosines():
    gradients = np.zeros((3, 2, 2, 1), np.float32)
    gradients[0, 0, 0] = 2
    gradients[1, 0] = -1
    gradients[2, 1, 1] = 1e-20
    image = np.full((2, 2, 1), 0.5)
    figure = saved(analysis.gradient_pictures(image, gradients, ["a", "b", "c"]))
    np.testing.assert_allclose(picture(figure.axes[1]), [[1, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(picture(figure.axes[2]), [[0, 0], [0.5, 0.5]])
    half = -np.sqrt(0.5)
    expected = [[1, half, 0], [half, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(picture(figure.axes[-1]), expected, atol=1e-6)


def test_filters_lie_where_kernel_pooling_has_them():
    """Filter c in row c // columns; its weights four by four pixels, three between filters."""
    kernel = np.zeros((2, 2, 1, 6))
    kernel[0, 1, 0] = [1, 2, 3, 4, 5, -6]
    sheet = picture(saved(analysis.filter_sheet(kernel, (2, 3), scale="sheet")).axes[0])
    assert sheet.shape == (2 * 8 + 3, 3 * 8 + 2 * 3)
    for number, (row, column) in enumerate(itertools.product(range(2), range(3))):
        top, left = row * 11, column * 11
        block = sheet[top : top + 8, left : left + 8]
        weight = kernel[0, 1, 0, number]
        np.testing.assert_allclose(block[:4, 4:], 0.5 + 0.5 * weight / 6)
        np.testing.assert_allclose(block[4:], 0.5)
    each = picture(analysis.filter_sheet(jnp.asarray(kernel), (2, 3)).axes[0])
    np.testing.assert_allclose(each[:4, 4:8], 1)
    with pytest.raises(ValueError, match=r"Expected grid=\(2, 2\) to hold the 6 filters"):
        analysis.filter_sheet(kernel, (2, 2))
    with pytest.raises(ValueError, match="Expected channels=2 to be 1 or 3"):
        analysis.filter_sheet(np.zeros((3, 3, 2, 4)), (2, 2))


def test_nothing_global_is_left_behind():
    before = dict(matplotlib.rcParams)
    figure = analysis.accuracy_curves({"a": {0.0: right(5)}})
    assert dict(matplotlib.rcParams) == before
    assert not figure.axes[0].spines["top"].get_visible()


def test_colours_are_told_apart_without_hue():
    """Neighbours differ in lightness or in marker; no two of 49 series have both the same."""
    from robust_jax.analysis import style

    series = {(style.color(number), style.marker(number)) for number in range(49)}
    assert len(series) == 49
    assert all(colors.is_color_like(each) for each in style.COLORS)
