"""The official AutoAttack code and Foolbox against ours, on the same JAX network.

The comparison on 512 CIFAR-10 images is `benchmarks/autoattack_parity.py`.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import APGD, APGDT, AutoAttack, ThreatModel

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
