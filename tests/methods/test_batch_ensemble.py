"""BatchEnsemble: every member is the plain network of its own weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.certify import Margins
from robust_jax.certify.crown import prepared
from robust_jax.certify.network import Affine
from robust_jax.evaluation import certification
from robust_jax.methods import BatchEnsemble, Standard
from robust_jax.models import CNNConfig, EnsembleConfig, WideResNetConfig
from robust_jax.types import Task

TASK = Task((8, 8, 1), 4, 100)
CNN = CNNConfig(widths=(4, 5), strides=(2, 1), conv_bias=True)
IMAGES = jax.random.uniform(jax.random.key(9), (6, 8, 8, 1))


@pytest.fixture(scope="module", params=[None, 0.5], ids=["signs", "normal"])
def built(request):
    method = BatchEnsemble(network=CNN, num_members=3, factor_std=request.param).make(TASK)
    return method, jax.jit(lambda key: method.init(key=key))(jax.random.key(0)), request.param


def member_of(variables, i):
    """The plain network's arrays of member i: kernels times the outer product of its factors."""
    params = {}
    for name, layer in variables["params"]["backbone"].items():
        if "s" not in layer:
            params[name] = layer
            continue
        kernel = layer["kernel"]
        factors = jnp.outer(layer["s"][i], layer["r"][i])
        wide = (None,) * (kernel.ndim - 2)
        params[name] = {"kernel": kernel * factors[wide], "bias": layer["bias"]}
    return {**variables, "params": {"backbone": params}}


@pytest.mark.slow
def test_members_are_plain_networks(built):
    method, variables, _ = built
    members = jax.jit(method.views["members"])(variables, IMAGES)
    assert members.shape == (3, 6, 4)
    plain = jax.jit(Standard(network=CNN).make(TASK).views["deployed"])
    for i in range(3):
        expected = plain(member_of(variables, i), IMAGES, key=None)
        np.testing.assert_allclose(members[i], expected, rtol=1e-4, atol=1e-5)
        alone = jax.jit(method.views["members"].member)(variables, IMAGES, i, key=None)
        np.testing.assert_allclose(alone, members[i], rtol=1e-5, atol=1e-6)
    scores = jax.jit(method.predict)(variables, IMAGES)
    np.testing.assert_allclose(jnp.exp(scores), jax.nn.softmax(members, axis=-1).mean(0), rtol=1e-4)


@pytest.mark.slow
def test_bounds_are_of_one_member_at_a_time(built):
    """Their rows stand in one batch where they are computed together."""
    method, variables, _ = built
    apart = jax.tree_util.Partial(certification.members_apart(method), variables)
    by_image = jax.tree_util.Partial(
        lambda scores, images: jnp.moveaxis(scores(images), 0, 1), apart
    )
    network = prepared(by_image, IMAGES[:1].shape)
    nodes = [x for x in network.nodes.values() if isinstance(x, Affine) and len(x.shape) == 4]
    assert {node.shape[0] for node in nodes} == {1}
    found = [local for node in nodes for local in node.local]
    assert None not in found
    assert sum(local is not None and local.kernel is not None for local in found) == 6
    certified = Margins(0.02)(apart, IMAGES[:2], np.asarray([0, 1]), vote=method.vote)
    same = Margins(0.02)(
        lambda images: method.views["members"](variables, images), IMAGES[:2], [0, 1],
        vote=method.vote,
    )  # fmt: skip
    assert certified.margin is not None
    assert same.margin is not None
    np.testing.assert_allclose(certified.margin, same.margin, rtol=1e-4)


@pytest.mark.quick_one_in(4)
def test_initial_factors(built):
    _, variables, std = built
    factors = jnp.concatenate(
        [
            layer[name].ravel()
            for layer in variables["params"]["backbone"].values()
            for name in ("s", "r")
            if name in layer
        ]
    )
    if std is None:
        np.testing.assert_array_equal(jnp.abs(factors), jnp.ones_like(factors))
        assert abs(float(jnp.mean(factors))) < 0.5
    else:
        assert float(jnp.mean(factors)) == pytest.approx(1, abs=0.3)
        assert float(jnp.std(factors)) == pytest.approx(0.5, abs=0.15)


def test_wide_resnet_has_few_more_parameters():
    task = Task((32, 32, 3), 10, 100)

    def count(config):
        shapes = jax.eval_shape(config.make(task).init, key=jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))

    network = WideResNetConfig(16, 4)
    plain = count(Standard(network=network))
    four = count(BatchEnsemble(network=network))
    # Inputs and outputs of every layer, four times.
    convolutions = 3 + 16 + (16 + 64 + 64 + 64 + 16 + 64) + 4 * 64
    convolutions += (64 + 128 + 128 + 128 + 64 + 128) + 4 * 128
    convolutions += (128 + 256 + 256 + 256 + 128 + 256) + 4 * 256
    assert four - plain == 4 * (convolutions + 256 + 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_members": 0}, "Expected num_members=0 >= 1."),
        ({"factor_std": -0.5}, "Expected factor_std=-0.5 >= 0."),
        ({"network": EnsembleConfig(CNN)}, "to be a single network"),
    ],
)
def test_bad_input(fields, message):
    with pytest.raises(ValueError, match=message):
        BatchEnsemble(**fields)
