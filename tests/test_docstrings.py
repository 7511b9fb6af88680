"""Every example in a docstring runs and prints what it says; every public name has one."""

import doctest
import importlib
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.test_docs import PACKAGES

PREPARED = {"jax": jax, "jnp": jnp, "np": np}
"""What an example need not import."""

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

MODULES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((REPOSITORY / "robust_jax").rglob("*.py"))
    if ">>> " in path.read_text()
]

WITHOUT = {
    "analysis": {"TapsView"},
    "attacks": {"View"},
    "data": {"Examples"},
    "interop.torch": {"Arguments", "main"},
    "models.torch_bridge": {"Logits"},
    "runtime.sharding": {"Device", "start_processes"},
}
"""Public names that nobody calls: protocols, records that only the package makes, what belongs to a
command or to a cluster."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    """In an empty folder, with nothing imported but JAX and NumPy."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    found = doctest.testmod(module, globs=dict(PREPARED), optionflags=FLAGS)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_example(package):
    module = importlib.import_module(f"robust_jax.{package}")
    own = [
        name
        for name, one in vars(module).items()
        if getattr(one, "__module__", None) == module.__name__ and not name.startswith("_")
    ]
    public = {name: getattr(module, name) for name in getattr(module, "__all__", own)}
    called = {
        name: one
        for name, one in public.items()
        if (inspect.isclass(one) or inspect.isroutine(one)) and one.__name__ == name
    }
    assert called
    lacking = {name for name, one in called.items() if ">>> " not in (inspect.getdoc(one) or "")}
    assert lacking == WITHOUT.get(package, set())


def test_words_of_an_example_are_shown_as_one():
    """The heading by which Sphinx sets examples apart."""
    for path in (REPOSITORY / "robust_jax").rglob("*.py"):
        for found in re.finditer(r'"""(.+?)"""', path.read_text(), re.DOTALL):
            if ">>> " in found[1]:
                assert "Example:" in found[1], f"{path.name}: {found[1][:60]}"
