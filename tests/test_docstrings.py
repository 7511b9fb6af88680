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


def own_names(module):
    """Returns the public names of a package, or of a module that does not list them."""
    own = [
        name
        for name, one in vars(module).items()
        if getattr(one, "__module__", None) == module.__name__ and not name.startswith("_")
    ]
    return getattr(module, "__all__", own)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_example(package):
    module = importlib.import_module(f"robust_jax.{package}")
    public = {name: getattr(module, name) for name in own_names(module)}
    called = {
        name: one
        for name, one in public.items()
        if (inspect.isclass(one) or inspect.isroutine(one)) and one.__name__ == name
    }
    assert called
    lacking = {name for name, one in called.items() if ">>> " not in (inspect.getdoc(one) or "")}
    assert lacking == WITHOUT.get(package, set())


def of_it(cls: type, name: str) -> str:
    """Returns the docstrings of a method, its own and those of what it overrides."""
    found = (vars(base).get(name) for base in cls.__mro__)
    return "\n".join(inspect.getdoc(one) or "" for one in found if one is not None)


def public_functions(package):
    """Yields name, function, its docstring, whether it is a method: what is public in a package."""
    module = importlib.import_module(f"robust_jax.{package}")
    for name in own_names(module):
        one = getattr(module, name)
        if inspect.isclass(one):
            for part, held in vars(one).items():
                function = getattr(held, "__func__", held)
                if inspect.isfunction(function) and not part.startswith("_") and part != "setup":
                    yield f"{name}.{part}", function, of_it(one, part), True
        elif inspect.isfunction(one):
            yield name, one, inspect.getdoc(one) or "", False


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_say_what_is_given_returned_and_raised(package):
    """Arguments where a function has several: the first line says what the only one is."""
    for name, function, words, is_method in public_functions(package):
        signature = inspect.signature(function)
        if signature.return_annotation not in (None, "None", inspect.Signature.empty):
            assert re.search("Returns|Yields", words), name
        if not is_method and len(signature.parameters) > 1:
            assert "Args:" in words, name
        if "raise ValueError" in inspect.getsource(function):
            assert "Raises" in words, name


def test_words_of_an_example_are_shown_as_one():
    """The heading by which Sphinx sets examples apart."""
    for path in (REPOSITORY / "robust_jax").rglob("*.py"):
        for found in re.finditer(r'"""(.+?)"""', path.read_text(), re.DOTALL):
            if ">>> " in found[1]:
                assert "Example:" in found[1], f"{path.name}: {found[1][:60]}"
