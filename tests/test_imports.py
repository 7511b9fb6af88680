"""Imports flow one way."""

import ast
import importlib
import importlib.util
import pathlib
import sys

import pytest

LAYERS = [
    {"checks", "types", "rng", "voting", "metrics", "serialization", "formats"},
    {"runtime"},
    {"data", "models", "attacks", "certify"},
    {"methods"},
    {"analysis"},
    {"evaluation", "training"},
    {"experiment"},
    {"interop", "commands"},
    {"study"},
]
"""What lies in robust_jax, lowest first; what stands on one floor knows nothing of each other."""
EVALUATION = [
    {"record", "judges"},
    {"summary"},
    {"measures"},
    {"attack_runs"},
    {"protocol"},
    {"claims", "reductions", "judging", "targets", "model", "selection"},
    {"records", "measurement", "steps"},
    {"harness", "certification", "sanity", "environment", "paired", "descriptions"},
    {"dry_run", "report"},
    {"run", "compare", "presets"},
]
"""The same inside evaluation/."""
GROUND = {("metrics", "voting")}
"""Imports on one floor that are allowed."""


def imported(path: pathlib.Path, within: str) -> set[str]:
    """Returns what a file imports of a package, by the part that comes after its name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = {a.name.removeprefix(f"{within}.").split(".")[0] for a in node.names}
            found |= names - sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == within:
                found |= {a.name for a in node.names}
            else:
                found.add(node.module.removeprefix(f"{within}.").split(".")[0])
    return found


@pytest.mark.parametrize(
    ("package", "layers"), [("robust_jax", LAYERS), ("robust_jax.evaluation", EVALUATION)]
)
def test_imports_flow_one_way(repository, package, layers):
    level = {name: number for number, layer in enumerate(layers) for name in layer}
    folder = repository / package.replace(".", "/")
    for path in sorted(folder.rglob("*.py")):
        part = path.relative_to(folder).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        assert part in level, f"{part} has no layer in this test"
        for name in imported(path, package) & level.keys():
            lower = level[name] < level[part] or name == part or (part, name) in GROUND
            assert lower, f"{path.relative_to(repository)} imports {name}"


def test_few_are_given_a_whole_evaluation(repository):
    """Who works on a part is given the part, so that following an evaluation is a short way."""
    given = set()
    for path in (repository / "robust_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.args, *node.args.kwonlyargs]
                names = {ast.unparse(a.annotation) for a in arguments if a.annotation}
                if any("Evaluation" in name.replace("|", " ").split() for name in names):
                    given.add(path.relative_to(repository / "robust_jax").as_posix())
    folder = "evaluation"
    assert given == {
        "experiment/judging.py",
        *(f"{folder}/{name}.py" for name in ("run", "harness", "reductions", "descriptions")),
    }  # fmt: skip


def test_attacks_and_certificates_know_no_network(repository):
    for folder in ("attacks", "certify"):
        for path in (repository / "robust_jax" / folder).rglob("*.py"):
            assert not imported(path, "robust_jax") & {"flax", "models", "methods"}, path


def test_flax_lives_with_networks(repository):
    for path in (repository / "robust_jax").rglob("*.py"):
        if "flax" in imported(path, "robust_jax"):
            assert path.parent.name in ("models", "methods", "interop"), path


def test_what_a_plain_node_lacks_is_imported_late(repository):
    late = {"torch", "grain", "tensorflow_datasets", "array_record", "tyro", "tensorboardX"}
    for path in [*(repository / "robust_jax").rglob("*.py"), *repository.glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert not {name.split(".")[0] for name in names} & late, path


def test_scripts_import_names_that_there_are(repository):
    """Nothing else runs all of benchmarks/, which the checker of types does not read either."""
    files = [*(repository / "benchmarks").rglob("*.py"), *repository.glob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            if node.module.partition(".")[0] != "robust_jax":
                continue
            module = importlib.import_module(node.module)
            for alias in node.names:
                inside = hasattr(module, "__path__")
                there = hasattr(module, alias.name) or (
                    inside and importlib.util.find_spec(f"{node.module}.{alias.name}") is not None
                )
                assert there, f"{file.name}: from {node.module} import {alias.name}"
