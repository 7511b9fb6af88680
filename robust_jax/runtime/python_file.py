"""Python files of one's own: run under names that their relative imports and classes go by."""

import contextlib
import importlib.util
import pathlib
import sys
import traceback
import types
from collections.abc import Iterator, Sequence

FLAG = "--define"


def described(description: str | None) -> str:
    """Returns the words of a command's help, and what it does with files of definitions."""
    return (
        f"{description or ''}\n{FLAG} FILE, any number of times, runs a Python file first: "
        "checkpoints may be made of what it defines (methods, networks)."
    )


def defined(words: Sequence[str]) -> list[str]:
    """Returns the words of a command line without its files of definitions, which are run.

    Args:
        words: among them `--define FILE` or `--define=FILE`, any number of times.

    Raises:
        ValueError: there is no such file, or none is named.
    """
    left: list[str] = []
    waiting = iter(words)
    for word in waiting:
        flag, equals, file = word.partition("=")
        if flag != FLAG:
            left.append(word)
            continue
        file = file if equals else next(waiting, "")
        if not file or file.startswith("--"):
            raise ValueError(f"Expected a file behind {FLAG}.")
        run_file(file)
    return left


def run_file(file: str | pathlib.Path) -> types.ModuleType:
    """Returns the module of a Python file, run anew.

    Raises:
        ValueError: no such file, or what it raises; in one line.
    """
    found = pathlib.Path(file).expanduser().resolve()
    if not found.is_file():
        raise ValueError(f"Expected {str(file)!r} to be a file.")
    with in_one_line(found):
        return _run(_module_name(found), found)


@contextlib.contextmanager
def in_one_line(file: pathlib.Path) -> Iterator[None]:
    """Raises ValueError, in one line with its place, for what a user's file raises."""
    try:
        yield
    except Exception as error:  # of every kind
        reason = (str(error).strip().splitlines() or [""])[0]
        place = ":".join([file.name, *_line(error, file)])
        if isinstance(error, ValueError):
            raise ValueError(f"{reason} ({place})") from error
        raise ValueError(f"Expected {place} to run: {type(error).__name__}: {reason}") from error


def _line(error: Exception, file: pathlib.Path) -> list[str]:
    """Returns the line of a file that an error comes from, the innermost, if there is one."""
    called = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in called if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    return [str(lines[-1])] if lines and lines[-1] else []


def _module_name(path: pathlib.Path) -> str:
    """Returns the name of a file's module, or of a folder's, and imports the package around it.

    A package that Python finds by its name has that name. What it does not find is named after its
    place: two folders, or two files, with one name are two modules.
    """
    around = path.parent / "__init__.py"
    if around.is_file():
        package = _module_name(path.parent)
        importlib.import_module(package)
        return f"{package}.{path.stem}"
    start = path / "__init__.py"
    name = str(path.with_suffix("")).replace(".", "_")
    if start.is_file():
        known = importlib.util.find_spec(path.name) if path.name.isidentifier() else None
        if known and known.origin and pathlib.Path(known.origin).resolve() == start:
            return path.name
        if name not in sys.modules:
            _run(name, start)
    return name


def _run(name: str, path: pathlib.Path) -> types.ModuleType:
    """Returns a file's module, run under a name that its relative imports go from."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # or a package that did not get to its end would be taken for whole
        raise
    return module
