"""Compiled programs kept from one start to the next: JAX's persistent cache, set up here."""

import hashlib
import os
import pathlib
import platform
import sys

import jax

from robust_jax.runtime import logging

MIN_SECONDS = 0.1
"""Programs that compile quicker are not kept. JAX's own limit of 1 s leaves most of a small run's
programs out, which are many and short."""


def use(wanted: str | None) -> None:
    """Sets up the cache; call it before anything is compiled.

    A program is found again by what is computed, compiler options, versions and devices. JAX's key
    leaves out the instructions of the host's processor, so each kind of processor has a folder of
    its own: one that another wrote could stop the process.

    Args:
        wanted: folder; "auto" for `user_directory()`, or the one that JAX was told already
            (JAX_COMPILATION_CACHE_DIR); None for no cache. Where JAX's own switch is off
            (JAX_ENABLE_COMPILATION_CACHE), it stays so.
    """
    if wanted is None:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    told = jax.config.values["jax_compilation_cache_dir"]
    if not jax.config.values["jax_enable_compilation_cache"] or (wanted == "auto" and told):
        return
    root = user_directory() if wanted == "auto" else pathlib.Path(wanted).expanduser()
    directory = root / processor()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        writable = os.access(directory, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        logging.say(f"Programs are compiled anew: {directory} cannot be written.")
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def user_directory() -> pathlib.Path:
    """Returns this user's folder for what can be made again, as the platform has it."""
    home = pathlib.Path.home()
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif sys.platform == "darwin":
        root = home / "Library" / "Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return pathlib.Path(root) / "robust_jax" / "compiled"


def processor() -> str:
    """Returns a name of this machine's kind of processor and its instructions."""
    words = f"{platform.machine()} {platform.processor()}"
    info = pathlib.Path("/proc/cpuinfo")
    if info.is_file():
        # "flags" on x86, "Features" on ARM; the same for every core.
        lines = info.read_text(errors="replace").splitlines()
        words += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    digest = hashlib.sha256(words.encode()).hexdigest()[:12]
    return f"{platform.machine() or 'machine'}-{digest}"
