"""RobustBench's networks of random weights: the same logits as ours, its names on the way back.

Its wheel is no extra of this package, for it brings much along, a package `tests` too. It is read
from a folder of its own: `pip install --no-deps --target zoo robustbench`, and ROBUSTBENCH names
`zoo/robustbench`.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.interop import export
from robust_jax.interop import torch as importer
from robust_jax.interop.architectures import design_of
from robust_jax.methods import Standard
from robust_jax.models import Normalization

torch = pytest.importorskip("torch", reason="needs the extra robust_jax[torch]")
nn = torch.nn
from tests.interop.torch_modules import randomised  # noqa: E402 - needs it

pytestmark = pytest.mark.slow

ZOO = "robustbench.model_zoo"
NETWORKS = tuple(
    f"{ZOO}.architectures.{each}" for each in ("resnet", "wide_resnet", "dm_wide_resnet")
)


class Absent(types.ModuleType):
    """A module that is not there: whatever is asked of it is a class of modules."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the files of RobustBench that define these networks, and `Absent` for all others."""

    def __init__(self, folder):
        self.folder = folder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ("robustbench", "timm"):
            return None
        if name in (*NETWORKS, f"{ZOO}.enums", f"{ZOO}.cifar10"):
            file = self.folder.joinpath(*name.split(".")[1:]).with_suffix(".py")
            return importlib.util.spec_from_file_location(name, file)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Absent(spec.name)

    def exec_module(self, module):
        pass


def folder() -> pathlib.Path | None:
    """Returns where RobustBench lies; None where it does not."""
    if "ROBUSTBENCH" in os.environ:
        return pathlib.Path(os.environ["ROBUSTBENCH"])
    spec = importlib.util.find_spec("robustbench")
    return pathlib.Path(spec.origin).parent if spec and spec.origin else None


@pytest.fixture(scope="module")
def zoo():
    """RobustBench's `model_zoo.cifar10`."""
    found = folder()
    if found is None:
        pytest.skip("needs RobustBench's files, which this file's head says how to get")
    with pytest.MonkeyPatch.context() as patch:
        for name in [each for each in sys.modules if each.split(".")[0] in ("robustbench", "timm")]:
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "meta_path", [Finder(found), *sys.meta_path])
        before = set(sys.modules)
        yield importlib.import_module(f"{ZOO}.cifar10")
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("robustbench", "timm"):
                patch.delitem(sys.modules, name)


CASES = {  # in their own size; a deeper network of a layout has no further kind of name
    ("linf", "Engstrom2019Robustness"): "resnet50_engstrom2019",
    ("linf", "Wong2020Fast"): "preact_resnet18_wong2020",
    ("linf", "Andriushchenko2020Understanding"): "preact_resnet18_andriushchenko2020",
    ("l2", "Rice2020Overfitting"): "preact_resnet18_rice2020",
    ("linf", "Rice2020Overfitting"): "wrn34_20_rice2020",
    ("linf", "Carmon2019Unlabeled"): "wrn28_10_carmon2019",
    ("linf", "Zhang2019Theoretically"): "wrn34_10_zhang2019",
    ("linf", "Gowal2020Uncovering_28_10_extra"): "wrn28_10_gowal2020",
    ("linf", "Rade2021Helper_extra"): "wrn34_10_gowal2020",
    ("linf", "Gowal2020Uncovering_34_20"): "wrn34_20_gowal2020",
    ("linf", "Rebuffi2021Fixing_R18_ddpm"): "preact_resnet18_rebuffi2021",
    ("linf", "Rade2021Helper_R18_extra"): "preact_resnet18_rade2021",
    ("linf", "Chen2020Adversarial"): "preact_resnet50_chen2020",
    ("linf", "Sehwag2021Proxy_R18"): "resnet18_cifar",
}


@pytest.mark.usefixtures("quick_programs")
@pytest.mark.parametrize(("threat", "name"), CASES)
def test_the_same_logits_and_the_same_names(zoo, threat, name, monkeypatch, capsys):
    torch.manual_seed(0)
    architecture = CASES[threat, name]
    design = design_of(architecture)
    module = randomised(getattr(zoo, threat)[name]["model"]())
    several = name == "Chen2020Adversarial"
    files = list(module.models) if several else [module]
    given = [{key: v.numpy() for key, v in each.state_dict().items()} for each in files]
    if several:
        imported = importer.import_ensemble(given, architecture)
    else:
        said = Normalization() if design.normalization is None else None
        imported = importer.import_state_dict(given[0], architecture, said)
    network, normalization, variables = imported
    assert normalization == (design.normalization or Normalization())
    method = Standard(network=network, normalization=normalization).make(design.task)
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    found = np.asarray(jax.jit(method.predict)(variables, jnp.asarray(images)))
    with torch.no_grad():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    found = np.exp(found) if several else found  # RobustBench gives the mean probability itself
    assert expected.std() > 1e-3
    # Sums in another order: 2e-7 to 6e-7 were measured.
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()

    dead = sorted(key for key in given[0] if key.startswith(design.dead))
    assert ("arrays sub_block1.*" in capsys.readouterr().out) == bool(dead)
    exported = export.export_state_dicts(network, normalization, variables, architecture)
    for written, read, each in zip(exported, given, files, strict=True):
        assert set(written) == set(read) - set(dead)
        for key, value in written.items():
            assert value.dtype == read[key].dtype, key
            np.testing.assert_array_equal(value, read[key])
        state_dict = {key: torch.from_numpy(value) for key, value in written.items()}
        missing = each.load_state_dict(state_dict, strict=not dead).missing_keys
        # Counts PyTorch does not miss: its older files have none.
        assert set(missing) == {key for key in dead if not key.endswith("num_batches_tracked")}
