"""The notebooks run from top to bottom, and come without outputs."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


# Training, and three libraries, take these longest; the quick start's commands run without it.
NIGHTLY = ("add_a_paper", "combine_defences", "read_a_report", "judge_a_module", "quickstart")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.nightly] * (path.stem in NIGHTLY))
        for path in NOTEBOOKS
    ],
)
def test_notebook_runs_as_it_stands(path, repository, monkeypatch):
    if "import torch" in path.read_text():
        pytest.importorskip("torch", reason="needs the extra robust_jax[torch]")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    client.execute()
    assert all(cell.execution_count for cell in code)


def test_there_are_six():
    assert len(NOTEBOOKS) == 6
