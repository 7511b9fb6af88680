"""How Sphinx builds the documentation: `sphinx-build -W --keep-going -b html docs SITE`.

Nothing is fetched. Notebooks and `sharp_edges.md` are executed, so what a page prints is what this
checkout gives; `-D nb_execution_mode=off` leaves that out while one works on words.
"""

import inspect
import itertools
import os
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# The kernels that execute notebooks import this checkout too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# They compile more than they compute.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import robust_jax  # noqa: E402

project = "robust_jax"
author = "The robust_jax authors"
copyright = author
version = release = robust_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# What a study writes is included by its page.
exclude_patterns = ["_build", "studies/*/*.md"]

html_theme = "sphinx_book_theme"
html_title = "robust_jax"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 1,
    "navbar_persistent": [],  # the search is in the sidebar
}

# In docstrings, as in Markdown, single backticks are code.
default_role = "literal"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [
    "Guarantees",
    *(
        (name, "params_style")
        for name in (
            "Attributes",
            "Inherited",
            "Views",
            "Architectures",
            "Robust architectures",
        )
    ),
]
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True


def copy_notebooks() -> None:
    """Copies notebooks/ to where Sphinx, which reads nothing outside its folder, finds them."""
    folder = ROOT / "docs" / "tutorials"
    folder.mkdir(exist_ok=True)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy2(path, folder)


def tables(app, what, name, obj, options, lines: list[str]) -> None:
    """Makes of Markdown's tables in a docstring those that Sphinx knows."""
    del app, what, name, obj, options
    made: list[str] = []
    inside = False
    for line in lines:
        if not line.startswith("|"):
            made.append(line)
            inside = False
            continue
        if not inside:
            made += [".. list-table::", "   :header-rows: 1", ""]
        inside = True
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if set("".join(cells)) != {"-"}:
            made += [f"   {' ' if number else '*'} - {c}" for number, c in enumerate(cells)]
    lines[:] = made


def fields(docstring: str | None) -> dict[str, list[str]]:
    """Returns the lines on each field of a class, by its name."""
    lines = iter(inspect.cleandoc(docstring or "").splitlines())
    found: dict[str, list[str]] = {}
    name = ""
    if "Attributes:" in lines:
        for line in itertools.takewhile(lambda line: line.startswith(" "), lines):
            if not line.startswith(" " * 5):
                name = line.partition(":")[0].strip()
            found.setdefault(name, []).append(line)
    return found


def inherited(app, what, name, obj, options, lines: list[str]) -> None:
    """Adds to a class the fields that it inherits, as the classes above it describe them."""
    del app, name, options
    if what != "class" or not inspect.isclass(obj):
        return
    above: dict[str, list[str]] = {}
    for one in obj.__mro__[1:]:
        if one.__module__.startswith("robust_jax"):
            above = fields(one.__dict__.get("__doc__")) | above
    own = fields("\n".join(lines))
    more = [line for field, text in above.items() if field not in own for line in text]
    if more:
        lines += ["", "Inherited:", *more, ""]


def public_bases(app, name, obj, options, bases: list) -> None:
    """Leaves private classes out of what a class says it is derived from."""
    del app, name, obj, options
    bases[:] = [one for one in bases if not getattr(one, "__name__", "").startswith("_")]


def left_out(app, what, name, obj, skip, options) -> bool | None:
    """Leaves out the fields of named tuples: their class says what they are."""
    del app, what, name, skip, options
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    """Registers what is above."""
    copy_notebooks()
    app.connect("autodoc-process-docstring", tables)
    # Before napoleon, which reads sections.
    app.connect("autodoc-process-docstring", inherited, priority=400)
    app.connect("autodoc-process-bases", public_bases)
    app.connect("autodoc-skip-member", left_out)
