"""Compiled programs on disk: found again by the next start; one line where none can be kept."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from robust_jax.runtime import compilation_cache, sharding

SCRIPT = """
import sys
import jax
from robust_jax.runtime import compilation_cache
compilation_cache.MIN_SECONDS = 0.0
compilation_cache.use(sys.argv[1] if sys.argv[1] != "none" else None)
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
print(float(jax.jit(lambda x: x * 3)(2.0)), sum("cache_hits" in name for name in found))
"""


def start(repository, wanted, **environment):
    """Returns what a fresh process printed: the result, and how many programs it found."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "true", **environment}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, wanted], cwd=repository, env=environment, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.strip().splitlines()


def entries(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_the_next_start_finds_what_was_compiled(tmp_path, repository):
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    assert start(repository, "auto", **home) == ["6.0 0"]
    folder = tmp_path / "robust_jax" / "compiled" / compilation_cache.processor()
    assert entries(folder) == entries(tmp_path) != []
    (result,) = start(repository, "auto", **home)
    assert result.startswith("6.0 ")
    assert int(result.split()[1]) > 0
    assert start(repository, "none", **home) == ["6.0 0"]
    # The user's own setting of JAX goes before "auto".
    own = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    assert start(repository, "auto", **home, **own) == ["6.0 0"]
    assert entries(tmp_path / "own")


@pytest.fixture
def enabled(monkeypatch):
    """JAX's switch on, and what was set put back."""
    names = ("jax_enable_compilation_cache", "jax_compilation_cache_dir",
             "jax_persistent_cache_min_compile_time_secs")  # fmt: skip
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys, enabled):
    (tmp_path / "file").touch()
    compilation_cache.use(str(tmp_path / "file" / "cache"))
    said = capsys.readouterr().out
    assert said.startswith("Programs are compiled anew: ")
    assert len(said.splitlines()) == 1
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_a_folder_of_each_processor(tmp_path, enabled):
    compilation_cache.use(str(tmp_path / "cache"))
    directory = pathlib.Path(jax.config.values["jax_compilation_cache_dir"])
    assert directory == tmp_path / "cache" / compilation_cache.processor()
    assert directory.is_dir()


def test_it_is_off_in_the_tests(tmp_path):
    before = jax.config.values["jax_compilation_cache_dir"]
    compilation_cache.use(str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    assert jax.config.values["jax_compilation_cache_dir"] == before


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="Expected compilation_cache='' to be a folder"):
        sharding.RuntimeConfig(compilation_cache="")
