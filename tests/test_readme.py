"""The Python of the README and of the how-to pages runs as it stands."""

import re

import numpy as np
import pytest

from robust_jax.commands import train
from robust_jax.methods import Standard
from robust_jax.models import EnsembleConfig
from tests import small

PAGES = {
    "README.md": 1,
    "docs/how_to/judge_a_function.md": 3,
    "docs/how_to/judge_a_checkpoint.md": 2,
    "docs/gallery.md": 1,
}
"""Blocks of Python, by page; each goes on where the one above it ends."""


@pytest.mark.slow
def test_python_blocks_run(repository, tmp_path):
    ensemble = Standard(network=EnsembleConfig(small.NETWORK, 2))
    for name, method in (("quickstart", small.noisy()), ("ensemble_digits", ensemble)):
        config = small.config(method, max_steps=2)
        train.main(train.Arguments(config, tmp_path / "runs" / name))
    shapes = {}
    for page, count in PAGES.items():
        blocks = re.findall(r"```python\n(.*?)```", (repository / page).read_text(), re.DOTALL)
        assert len(blocks) == count, page
        names: dict[str, object] = {}
        for block in blocks:
            exec(block.replace("runs/", f"{tmp_path}/runs/"), names)
        if page == "docs/gallery.md":
            images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
            found, rounded = (
                np.asarray(names["net"](x)) for x in (images, np.round(4 * images) / 4)
            )
            assert found.shape == (3, 10)
            np.testing.assert_array_equal(found, rounded)
        shapes[page] = getattr(names.get("adversarial"), "shape", None)
    assert (4, 8, 8, 1) in shapes.values()


def test_every_page_with_python_is_run(repository):
    """But for sharp_edges.md and the tutorials, which are executed as they are built."""
    pages = {"README.md"} | {
        path.relative_to(repository).as_posix() for path in (repository / "docs").rglob("*.md")
    }
    with_python = {page for page in pages if "```python\n" in (repository / page).read_text()}
    assert with_python == set(PAGES)


def test_commands_name_files_that_exist(repository):
    text = (repository / "README.md").read_text() + (repository / "CONTRIBUTING.md").read_text()
    for file in re.findall(r"configs/[a-z0-9_/]+\.py|benchmarks/[\w/]+\.py", text):
        assert (repository / file).is_file(), file
