"""The official AutoAttack code and Foolbox against ours, on the same JAX network.

The comparison on 512 CIFAR-10 images is `benchmarks/autoattack_parity.py`.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import (
    APGD,
    APGDT,
    EAD,
    AutoAttack,
    Boundary,
    CarliniWagner,
    DeepFool,
    HopSkipJump,
    ThreatModel,
)
from robust_jax.attacks.threat import distance

KEY = jax.random.key(17)


@pytest.fixture(scope="module")
def referees(repository):
    """The bridges to other libraries, which the benchmarks share."""
    pytest.importorskip("torch", reason="needs torch==2.13.0 (pip install -e '.[parity]')")
    spec = importlib.util.spec_from_file_location(
        "attack_referees", repository / "benchmarks" / "attack_referees.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "make"), [("apgd_ce", APGD), ("apgd_t", APGDT)])
def test_official_autoattack(name, make, many_digits, referees):
    pytest.importorskip("pyautoattack", reason="needs pyautoattack (pip install -e '.[parity]')")
    threat = ThreatModel("linf", 0.14)
    view, images, labels = many_digits
    ours = AutoAttack(threat, version="custom", attacks=(make(threat),), batch_size=64)
    standing = ours.report(view, images, labels, key=KEY).standing
    theirs = referees.official(referees.TorchView(view), images, labels, threat, [name])
    logits = view(jnp.asarray(theirs), key=None)
    theirs_standing = np.asarray(jnp.argmax(logits, axis=1) == labels)
    assert 8 <= theirs_standing.sum() <= 56
    assert standing.sum() <= theirs_standing.sum() + 1


def distances(view, adversarial, images, labels, norm):
    """Distance of each adversarial image, infinite where the image is classified right."""
    fooled = jnp.argmax(view(adversarial, key=None), axis=1) != labels
    return np.where(fooled, distance(norm, adversarial, images), np.inf)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["carlini_wagner", "ead", "deepfool_l2", "deepfool_linf"])
def test_foolbox_minimum_norm(name, many_digits, referees):
    foolbox = pytest.importorskip("foolbox", reason="needs foolbox (pip install -e '.[parity]')")
    view, images, labels = many_digits.view, many_digits.images[:32], many_digits.labels[:32]
    theirs, ours = {
        "carlini_wagner": (
            foolbox.attacks.L2CarliniWagnerAttack(
                binary_search_steps=5, steps=200, stepsize=0.01, initial_const=0.1
            ),
            CarliniWagner(num_searches=5, num_steps=200, learning_rate=0.01, initial_constant=0.1),
        ),
        "ead": (
            foolbox.attacks.EADAttack(
                binary_search_steps=5,
                steps=200,
                initial_stepsize=0.01,
                initial_const=0.1,
                regularization=1e-2,
                decision_rule="EN",
            ),
            EAD(
                num_searches=5,
                num_steps=200,
                learning_rate=0.01,
                initial_constant=0.1,
                beta=1e-2,
            ),
        ),
        "deepfool_l2": (foolbox.attacks.L2DeepFoolAttack(), DeepFool()),
        "deepfool_linf": (
            foolbox.attacks.LinfDeepFoolAttack(),
            DeepFool(distance_norm="linf"),
        ),
    }[name]
    norm = ours.norm
    found = referees.foolbox_distances(view, images, labels, theirs, norm=norm)
    own = distances(view, ours(view, images, labels, key=KEY), images, labels, norm)
    assert np.isfinite(own).sum() >= np.isfinite(found).sum()
    assert np.median(own) <= 1.02 * np.median(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["boundary", "hop_skip_jump"])
def test_foolbox_decisions(name, many_digits, referees):
    foolbox = pytest.importorskip("foolbox", reason="needs foolbox (pip install -e '.[parity]')")
    view, images, labels = many_digits.view, many_digits.images[:32], many_digits.labels[:32]
    boundary = foolbox.attacks.BoundaryAttack(steps=2000, tensorboard=False)
    theirs, ours = {
        "boundary": (boundary, Boundary(num_steps=2000)),
        "hop_skip_jump": (
            foolbox.attacks.HopSkipJumpAttack(steps=20, tensorboard=False),
            HopSkipJump(num_steps=20),
        ),
    }[name]
    index = jnp.arange(32)
    starts = jax.jit(lambda: ours.starts(view, images, labels, key=KEY, index=index))()
    assert jnp.all(jnp.argmax(view(starts, key=None), axis=1) != labels)
    found = referees.foolbox_distances(
        view, images, labels, theirs, norm=ours.norm, starting_points=starts
    )
    reached = jax.jit(lambda: ours.approach(view, images, labels, starts, key=KEY, index=index))()
    own = distances(view, reached, images, labels, ours.norm)
    print(name, np.median(own), np.median(found))
    # Points end so close to the boundary that rounding decides some anew.
    assert np.isfinite(own).sum() >= 29
    assert np.median(own) <= 1.10 * np.median(found)
