"""The README's Python runs as it stands."""

import re

import pytest

from robust_jax.commands import train
from tests import small


@pytest.mark.slow
def test_python_blocks_run(repository, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    train.main(train.Arguments(small.config(small.noisy(), max_steps=2), tmp_path))
    names: dict[str, object] = {}
    for block in blocks:
        # The rest of the suite forbids implicit promotion; a notebook does not.
        exec(block.replace("runs/quickstart", str(tmp_path)), names)
    assert names["adversarial"].shape == (4, 8, 8, 1)


def test_commands_name_files_that_exist(repository):
    text = (repository / "README.md").read_text() + (repository / "CONTRIBUTING.md").read_text()
    for file in re.findall(r"configs/[a-z0-9_/]+\.py|benchmarks/[\w/]+\.py", text):
        assert (repository / file).is_file(), file
