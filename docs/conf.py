"""How Sphinx builds the documentation: `sphinx-build -W --keep-going -b html docs SITE`.

Nothing is fetched. Notebooks and `sharp_edges.md` are executed, so what a page prints is what this
checkout gives; `-D nb_execution_mode=off` leaves that out while one works on words.
"""

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
exclude_patterns = ["_build"]

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
    *((name, "params_style") for name in ("Attributes", "Views", "Architectures")),
]
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True


def copy_notebooks() -> None:
    """Copies notebooks/ to where Sphinx, which reads nothing outside its folder, finds them."""
    folder = ROOT / "docs" / "tutorials"
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


def left_out(app, what, name, obj, skip, options) -> bool | None:
    """Leaves out the fields of named tuples: their class says what they are."""
    del app, what, name, skip, options
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    """Registers what is above."""
    copy_notebooks()
    app.connect("autodoc-process-docstring", tables)
    app.connect("autodoc-skip-member", left_out)
