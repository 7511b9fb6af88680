"""Imports flow one way: the layers of DESIGN, lowest first."""

import ast
import pathlib

LAYERS = [
    {"types", "rng", "compilation", "live", "formats", "wording", "page"},
    {"sharding", "models", "voting", "attacks", "certify", "data", "metrics", "serialization"},
    {"methods", "optimizers"},
    {"analysis"},
    {"measures", "judges", "record"},
    {"protocol", "logging", "interrupt", "command_line"},
    {"training", "plan", "claims", "reductions", "judging", "targets", "weights", "compilation_cache"},
    {"config"},
    {"checkpoints", "records"},
    {"evaluation", "certification", "measurement", "sanity", "environment"},
    {"experiment", "interop", "report", "dry_run"},
]  # fmt: skip
INSIDE = {
    ("plan", "training"), ("training", "plan"),
    ("attacks", "serialization"), ("models", "voting"),
    ("certify", "sharding"), ("certify", "voting"), ("compilation", "live"),
}  # fmt: skip
"""Same-layer imports that are allowed, besides a package's own."""
COMMANDS = {"analysis/compare.py": "report"}
"""Programs, which nothing imports, and the layer's part that they count as."""


def imported(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "robust_jax":
                found |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names}
            else:
                found.add(parts[0])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1 if a.name.startswith("robust_jax.") else 0]
                      for a in node.names}  # fmt: skip
    return found


def test_imports_flow_one_way(repository):
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    package = repository / "robust_jax"
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package)
        part = COMMANDS.get(file.as_posix(), file.parts[0].removesuffix(".py"))
        if part == "__init__":
            continue
        assert part in level, f"{part} has no layer in this test"
        for name in imported(path) & level.keys():
            lower = level[name] < level[part] or name == part or (part, name) in INSIDE
            assert lower, f"{path.relative_to(repository)} imports {name}"


def test_attacks_and_certificates_know_no_network(repository):
    for folder in ("attacks", "certify"):
        for path in (repository / "robust_jax" / folder).rglob("*.py"):
            assert not imported(path) & {"flax", "models", "methods"}, path


def test_flax_lives_with_networks(repository):
    for path in (repository / "robust_jax").rglob("*.py"):
        if "flax" in imported(path):
            assert path.parent.name in ("models", "methods", "interop"), path


def test_what_a_plain_node_lacks_is_imported_late(repository):
    late = {"torch", "grain", "tensorflow_datasets", "array_record", "tyro", "tensorboardX"}
    for path in [*(repository / "robust_jax").rglob("*.py"), *repository.glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert not {name.split(".")[0] for name in names} & late, path
