"""Presets: what is asked of which model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation
from robust_jax.attacks import ThreatModel
from robust_jax.evaluation import Model, preset
from robust_jax.evaluation.presets import num_members
from robust_jax.runtime import sharding

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(64, 4, 4, 1)).astype(np.float32)
WEIGHTS = RNG.normal(size=(3, 16, 3)).astype(np.float32)
LINF = ThreatModel("linf", 0.05)


def of_members(variables, images):
    hidden = jnp.einsum("bi,mic->mbc", images.reshape(len(images), -1), variables["weights"])
    return jax.nn.relu(hidden) - 0.5 * jax.nn.relu(-hidden)


def mean(variables, images):
    return of_members(variables, images).mean(0)


def of_ten(variables, images):
    return jnp.tile(mean(variables, images), (1, 4))[:, :10]


def noisy(variables, images, *, key, function=mean):
    return function(variables, images + 0.05 * jax.random.normal(key, images.shape))


VARIABLES = {"weights": WEIGHTS}
DATA = IMAGES, np.asarray(mean(VARIABLES, IMAGES)).argmax(-1)
MODELS = {
    "plain": Model.of(mean, VARIABLES, num_classes=3),
    "ensemble": Model.of(mean, VARIABLES, num_classes=3, members=of_members, vote="mean_logit"),
    "random": Model.of(noisy, VARIABLES, num_classes=3, stochastic=True),
    "rounded": Model.of(
        lambda variables, images: jnp.round(mean(variables, images)),
        VARIABLES, num_classes=3, surrogate=mean,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "attacks", "judges", "certified"),
    [
        ("plain", {"frugal", "square"}, {"honest"}, True),
        ("ensemble", {"frugal", "square", "mora", "arc"}, {"honest", "one member"}, True),
        ("random", {"apgd_eot", "apgd_margin_eot", "square_fixed"}, {"honest", "one draw"}, False),
        ("rounded", {"frugal", "square", "pgd40_surrogate"}, {"honest"}, False),
    ],
)  # fmt: skip
def test_honest_is_what_suits_the_model(kind, attacks, judges, certified):
    found = preset("honest", LINF, MODELS[kind], DATA)
    assert set(found.attacks) == {"autoattack", "pgd100x5", *attacks}
    assert set(found.judges) == judges
    assert bool(found.certificates) == certified
    version = "rand" if kind == "random" else "standard"
    many = np.zeros((5000, 4, 4, 1)), np.zeros(5000, int)
    draws = kind == "random"
    function = functools.partial(noisy, function=of_ten) if draws else of_ten
    wide = Model.of(function, VARIABLES, num_classes=10, stochastic=draws)
    ten = preset("honest", LINF, wide, many)
    assert ten.attacks["autoattack"].attack.version == version
    assert ten.selection.num_examples == (200 if kind == "random" else 1000)
    assert found.selection.num_examples == 64


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["quick", "standard"])
def test_names_say_what_is_run(name, kind):
    found = preset(name, LINF, MODELS[kind], DATA)
    expected = {"quick": {"apgd", "apgd_margin", "square"}, "standard": {"autoattack", "pgd100x5"}}
    assert set(found.attacks) == expected[name]
    samples = {run.eot_samples for run in found.attacks.values()}
    assert (max(samples) > 1) == (kind == "random")
    assert not found.certificates


@pytest.mark.parametrize("norm", ["l1", "l2", "linf", "l0"])
def test_every_ball_has_its_attacks(norm):
    threat = ThreatModel(norm, 2.0 if norm == "l0" else 0.1)
    for name in ("quick", "standard", "honest"):
        found = preset(name, threat, MODELS["ensemble"], DATA)
        assert {run.attack.threat for run in found.attacks.values()} == {threat}


def raises(images):
    raise RuntimeError("boom\nand more")


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(
    ("function", "match"),
    [
        (raises, "RuntimeError: boom"),
        (lambda images: images.nope(), "AttributeError: .*nope"),
        (lambda images: images.reshape(len(images), -1) @ WEIGHTS[0, :3], "TypeError: "),
        (lambda images: (mean(VARIABLES, images), 1), "one floating array of scores, found tuple"),
        (lambda images: 3.0, "one floating array of scores, found float"),
        (lambda images: mean(VARIABLES, images).astype(int), "of scores, found int32"),
        (lambda images: np.asarray(images), "TracerArrayConversionError"),
        (lambda images: mean(VARIABLES, images)[:, :2], r"\[b 3\] of scores, found \(1, 2\)"),
    ],
    ids=["raises", "attribute", "shape", "tuple", "number", "integers", "numpy", "classes"],
)  # fmt: skip
def test_a_function_that_does_not_work_is_one_line(function, match):
    with pytest.raises(ValueError, match=match) as error:
        preset("quick", LINF, Model.of(function, num_classes=3), DATA)
    assert "\n" not in str(error.value)


def test_what_cannot_be_attacked_is_refused():
    one = Model.of(lambda images: mean(VARIABLES, images)[:, :1], num_classes=1)
    with pytest.raises(ValueError, match="num_classes=1 >= 2"):
        preset("quick", LINF, one, DATA)
    with pytest.raises(ValueError, match=r"\(64, 4, 4\) to be \[b h w k\]"):
        preset("quick", LINF, MODELS["plain"], (IMAGES[..., 0], DATA[1]))


def test_members_are_counted():
    assert {kind: num_members(model, (4, 4, 1)) for kind, model in MODELS.items()} == {
        "plain": 1, "ensemble": 3, "random": 1, "rounded": 1,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["rounded", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in MODELS
                  if kind != "rounded")],
)  # fmt: skip
def test_honest_runs(kind):
    """Rounded scores have no gradients: the surrogate and queries see what AutoAttack's do not."""
    model = MODELS[kind]
    wanted = preset("honest", LINF, model, DATA).reduced()
    found = evaluation.run(model, DATA, wanted, mesh=sharding.make_mesh(1)).summary
    honest = found["judges"]["honest"]
    worst = honest["worst_case_accuracy"][str(LINF)]
    assert 0 < worst < honest["clean_accuracy"]
    assert worst <= min(honest["robust_accuracy"].values())
    if found["certificates"]:
        assert found["certificates"]["margins"]["certified_accuracy"] <= worst
