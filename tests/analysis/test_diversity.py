"""Diversity on votes by hand, on linear members and on members so sure that gradients vanish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import analysis
from robust_jax.attacks import as_view, bind, losses
from robust_jax.methods import KAP, LaplaceRates, Standard
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.types import Task

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
# Three members, four pixels, three classes.
WEIGHTS = RNG.normal(size=(3, 4, 3)).astype(np.float32)
IMAGES = RNG.uniform(size=(6, 2, 2, 1)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def linear(scale=1.0):
    """Returns the view of the linear members, logits times `scale`."""
    weights = jnp.asarray(WEIGHTS) * scale

    def members(images):
        return jnp.einsum("bp,mpc->mbc", images.reshape(len(images), -1), weights)

    return as_view(members)


def gradients(view, loss="cross_entropy"):
    return analysis.member_gradients(
        view, jnp.asarray(IMAGES), jnp.asarray(LABELS), key=KEY, loss=loss
    )


@pytest.mark.parametrize(
    ("right", "num_members", "expected"),
    [
        ([3, 2, 1, 0], 3, (0 + 1 + 1 + 0) / 4),  # K - ceil(K / 2) = 1
        ([2, 1, 4, 3], 4, (2 + 1 + 0 + 1) / 4 / 2),
        ([2, 3, 5, 1], 5, (2 + 2 + 0 + 1) / 4 / 2),
    ],
)
def test_entropy_by_hand(right, num_members, expected):
    correct = jnp.arange(num_members)[:, None] < jnp.array(right)[None]
    assert float(jax.jit(analysis.entropy)(correct)) == pytest.approx(expected)


def test_entropy_needs_members():
    with pytest.raises(ValueError, match=r"Expected members=1 >= 2\."):
        analysis.entropy(jnp.ones((1, 4), bool))


def test_gradients_of_linear_members_by_a_loop():
    found = gradients(linear())
    assert found.shape == (3, 6, 2, 2, 1)
    for m in range(3):
        for b in range(6):
            logits = IMAGES[b].ravel() @ WEIGHTS[m]
            probability = np.exp(logits) / np.exp(logits).sum()
            expected = WEIGHTS[m] @ (probability - np.eye(3)[LABELS[b]])
            np.testing.assert_allclose(found[m, b].ravel(), expected, rtol=1e-4, atol=1e-6)


def test_statistics_of_linear_members_by_a_loop():
    vectors = np.asarray(gradients(linear()), np.float64).reshape(3, 6, 4)
    found = analysis.gradient_statistics(jnp.asarray(gradients(linear())))
    for b in range(6):
        norms = [np.linalg.norm(vectors[m, b]) for m in range(3)]
        cosines = [
            vectors[i, b] @ vectors[j, b] / norms[i] / norms[j] for i, j in [(0, 1), (0, 2), (1, 2)]
        ]
        np.testing.assert_allclose(found.cosine[:, b], cosines, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.norm[:, b], norms, rtol=1e-5)
        np.testing.assert_allclose(found.cosine_sum[b], sum(cosines), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.norm_sum[b], sum(norms), rtol=1e-5)


def test_a_sure_member_has_no_gradient_but_a_margin():
    """Saturation makes L_d and L_s vanish; the margin's cosines do not know of it."""
    summary = analysis.summarize_gradients(analysis.gradient_statistics(gradients(linear(1e4))))
    dead = np.array(summary["zero_share"])
    # Exactly the examples that a member gets right are saturated.
    scores = np.einsum("bp,mpc->mbc", IMAGES.reshape(6, -1), WEIGHTS)
    np.testing.assert_allclose(dead, (scores.argmax(-1) == LABELS[None]).mean(-1), rtol=1e-6)
    assert dead.max() > 0
    plain = analysis.gradient_statistics(gradients(linear(), "margin"))
    sure = analysis.gradient_statistics(gradients(linear(1e4), "margin"))
    np.testing.assert_allclose(sure.cosine, plain.cosine, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sure.norm, 1e4 * plain.norm, rtol=1e-5)
    assert analysis.summarize_gradients(sure)["zero_share"] == [0, 0, 0]


def test_dlr_lengths_do_not_depend_on_the_scale_of_logits():
    plain, scaled = (
        analysis.gradient_statistics(gradients(linear(scale), "dlr")) for scale in (1.0, 1e3)
    )
    np.testing.assert_allclose(scaled.norm, plain.norm, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_zero_gradient_has_no_cosine():
    vectors = jnp.array([[[1.0, 0], [0, 0], [1e-25, 0]], [[1.0, 1], [1, 0], [1e-25, 1e-25]]])
    found = analysis.gradient_statistics(vectors)
    # Tiny vectors have their own cosine: nothing was added to their norms.
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found.cosine[0], [half, np.nan, half], rtol=1e-6)
    np.testing.assert_allclose(found.norm[0], [1, 0, 1e-25], rtol=1e-6)
    summary = analysis.summarize_gradients(found)
    assert summary["L_d"] == pytest.approx([half] * 3)
    assert summary["zero_share"] == pytest.approx([1 / 3, 0])
    assert summary["tiny_share"] == pytest.approx([2 / 3, 1 / 3])


def test_quartiles_are_numpys_and_leave_nan_out():
    values = RNG.normal(size=(2, 11)).astype(np.float32)
    expected = np.percentile(values, [25, 50, 75], axis=1).T
    np.testing.assert_allclose(analysis.quartiles(jnp.asarray(values)), expected, rtol=1e-6)
    found = analysis.quartiles(jnp.array([1.0, jnp.nan, 3.0]))
    np.testing.assert_allclose(found, [1.5, 2, 2.5])


@pytest.mark.slow
@pytest.mark.parametrize("config", [Standard, pytest.param(KAP, marks=pytest.mark.slow)])
def test_gradients_of_a_methods_members(config):
    """Of a convolutional ensemble, random or not, against a plain gradient of each member."""
    network = EnsembleConfig(CNNConfig(widths=(9,), strides=(2,)), num_members=2)
    method = config(network=network).make(Task((8, 8, 1), 3, 10))
    variables = method.init(key=jax.random.key(1))
    images = jnp.asarray(RNG.uniform(size=(3, 8, 8, 1)), jnp.float32)
    labels = jnp.array([0, 1, 2])
    view = bind(method.view("members"), variables)
    found = analysis.member_gradients(view, images, labels, key=KEY)
    for member in range(2):

        @jax.jit
        @jax.grad
        def expected(images, member=member):
            return jnp.sum(losses.cross_entropy(view(images, key=KEY)[member], labels))

        np.testing.assert_allclose(found[member], expected(images), rtol=1e-4, atol=1e-6)
    assert float(jnp.min(analysis.norms(found))) > 0


def test_unknown_loss():
    with pytest.raises(ValueError, match="Expected loss='hinge'"):
        gradients(linear(), "hinge")


def test_keep_rate_is_that_of_the_method():
    """One member, features 1.05 (two of three, the priority) and 1.55: z = gamma / 3 * 0.5^2."""
    rates = LaplaceRates(gamma=2.0)
    found = rates(jnp.array([[[1.05, 1.05, 1.55]]]))[0, 0]
    z = jnp.array([0.0, 0.0, 2.0 / 3 * 0.25])
    np.testing.assert_allclose(analysis.keep_rate(rates, z), found, rtol=1e-4)


@pytest.mark.usefixtures("without_type_checks")
def test_labels_that_are_no_classes():
    def members(images, *, key):
        del key
        return jnp.stack([images, -images])

    images = jnp.ones((4, 3))
    for labels, message in (
        (jnp.asarray([0, 1, 2, 3]), r"Expected labels in \[0, c\), found 0 to 3"),
        (jnp.asarray([0, 1, 2, -1]), r"Expected labels in \[0, c\), found -1 to 2"),
        (jnp.asarray([0]), r"labels.shape=\(1,\) to be \(4,\)"),  # not one for all
        (jnp.zeros(4), "labels.dtype=float32 to be integer"),
    ):
        with pytest.raises(ValueError, match=message):
            analysis.member_gradients(members, images, labels, key=KEY)
    found = analysis.member_gradients(members, images, [0, 1, 2, 0], key=KEY)
    assert found.shape == (2, 4, 3)
