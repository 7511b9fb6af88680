"""The documentation reaches what is public, and its links lead somewhere; no page is built."""

import fnmatch
import importlib
import inspect
import re

import pytest

PACKAGES = (
    "analysis", "attacks", "certify", "data", "evaluation", "evaluation.measures",
    "evaluation.protocol", "experiment", "experiment.checkpoints", "interop.export",
    "interop.torch", "methods", "metrics", "models", "models.torch_bridge", "runtime.sharding",
    "study", "training", "voting",
)  # fmt: skip
"""What has a page of its own in docs/api."""


def page(repository, package: str) -> str:
    return (repository / "docs" / "api" / f"{package}.md").read_text()


def left_out(text: str) -> set[str]:
    """The names that a page leaves to another one."""
    listed = re.search(r":exclude-members: (.+)", text)
    return set(listed[1].split(", ")) if listed else set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_reached(repository, package):
    """By autodoc, which leaves out what has no docstring and values without words of their own."""
    text = page(repository, package)
    assert f".. automodule:: robust_jax.{package}\n" in text
    module = importlib.import_module(f"robust_jax.{package}")
    for name in getattr(module, "__all__", ()):
        found = getattr(module, name)
        if name in left_out(text):
            pages = [other for other in PACKAGES if name not in left_out(page(repository, other))]
            modules = [importlib.import_module(f"robust_jax.{other}") for other in pages]
            assert any(
                name in getattr(other, "__all__", ()) and getattr(other, name) is found
                for other in modules
            ), name
        elif getattr(found, "__name__", None) == name:
            assert inspect.getdoc(found), name
        elif not re.search(rf'(?m)^{name} = .+\n"""', inspect.getsource(module)):
            assert f"data:: robust_jax.{package}.{name}\n\n   " in text, name


def test_every_page_is_in_a_table_of_contents(repository):
    docs = repository / "docs"
    pages = {path.relative_to(docs).as_posix()[:-3] for path in docs.rglob("*.md")}
    pages -= {page for page in pages if re.match("studies/.+/", page)}  # included by a page
    # Sphinx is given copies of the notebooks, which are not kept there.
    pages |= {f"tutorials/{path.stem}" for path in (repository / "notebooks").glob("*.ipynb")}
    listed = {"index"}
    for path in sorted(docs.rglob("*.md")):
        folder = path.parent.relative_to(docs)
        for block in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.DOTALL):
            for line in block.splitlines():
                entry = re.sub(r".*<(.+)>", r"\1", line)
                if entry and not entry.startswith(":"):
                    found = fnmatch.filter(pages, (folder / entry).as_posix())
                    assert found, f"{path.name}: {entry}"
                    listed |= set(found)
    assert pages == listed, pages - listed


def test_relative_links_lead_to_files(repository):
    docs, notebooks = repository / "docs", repository / "notebooks"
    for path in [repository / "README.md", *docs.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            file = (path.parent / target.partition("#")[0]).resolve()
            if file.parent == docs / "tutorials" and file.suffix == ".ipynb":
                file = notebooks / file.name
            assert not target.partition("#")[0] or file.exists(), f"{path.name}: {target}"


def test_what_is_included_is_there(repository):
    """An include begins and ends at words that its file has once."""
    for path in (repository / "docs").rglob("*.md"):
        for file, options in re.findall(
            r"```\{include\} (\S+)\n(.*?)```\n", path.read_text(), re.DOTALL
        ):
            text = (path.parent / file).read_text()
            for words in re.findall(r":(?:start-after|end-before): \"(.+)\"", options):
                words = words.encode().decode("unicode_escape")
                assert text.count(words) == 1, f"{path.name}: {words!r} in {file}"
