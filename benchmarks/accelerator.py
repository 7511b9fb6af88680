"""Everything that only an accelerator can tell, by one command, on a node without a network.

    python benchmarks/accelerator.py --prepare --data-dir DIR --checkpoints DIR   # on the CPU
    python benchmarks/accelerator.py --out DIR [--sections NAME ...] [--rows REGEX] [--seconds 540]
    python benchmarks/accelerator.py --rehearse --out DIR     # all of it at toy size, on the CPU

`--prepare` writes the folder that travels with the repository (`benchmarks/carried`); the run
needs what a plain JAX node has, and compares with PyTorch where that is installed. Sections:

* agreement: attacks, five steps of every method and CROWN against the CPU's numbers;
* attacks: PGD-20, APGD-CE and AutoAttack beside PyTorch and the official code;
* verdicts: FrugalAttack beside AutoAttack and the official code on the public networks;
* training: an epoch beside PyTorch's best, every method's step, members, what a step is made of;
* certificates: smoothing beside the bare forward pass, CROWN;
* profile: where the time of an attack and of a training step goes;
* settings: what each of XLA's options makes of an attack and of a training step;
* first_row: KAP and its noise-only twin trained on the carried images and evaluated.

Each runs in a process of its own, within its time limit; every row is kept as soon as it is
measured (`rows.jsonl`), so that the same command goes on where it was stopped. `results.json` and
`results.md` are written after each section.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
LIMITS = {
    "agreement": 60,
    "attacks": 150,
    "verdicts": 300,
    "training": 120,
    "certificates": 30,
    "profile": 60,
    "settings": 60,
    "first_row": 600,
}
"""Seconds of each section, compilation included; the last takes what is left."""
TOY_LIMIT = 400
GRACE = 20
"""Seconds that a row in progress may run over the limit before its section is ended."""


def parse() -> argparse.Namespace:
    """Returns the command line (argparse: the node may lack tyro)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "accelerator")
    parser.add_argument("--carried", type=pathlib.Path, default=HERE / "carried")
    parser.add_argument("--seconds", type=float, default=540, help="of the whole run")
    parser.add_argument(
        "--limit", nargs="*", default=[], metavar="SECTION=S", help="another limit of a section"
    )
    parser.add_argument(
        "--rows", default="", metavar="REGEX", help="only rows whose table or name has it"
    )
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, on the CPU")
    parser.add_argument("--prepare", action="store_true", help="write the carried folder")
    parser.add_argument("--data-dir", help="of TFDS, for --prepare")
    parser.add_argument("--checkpoints", type=pathlib.Path, help="for --prepare")
    parser.add_argument("--num-train", type=int, default=16_000, help="images to carry")
    parser.add_argument(
        "--wheel-model", action="store_true", help="carry the ResNet-18 of pyautoattack's wheel"
    )
    parser.add_argument("--commit", help="of the tree, where its history did not travel with it")
    parser.add_argument("--section", choices=LIMITS, help=argparse.SUPPRESS)
    return parser.parse_args()


def machine(carried: pathlib.Path, known: str | None) -> dict:
    """Returns hardware, driver, versions and commit; starts the device."""
    import importlib.metadata

    import jax
    from on_accelerator.carried import commit

    device = jax.devices()[0]
    found = {"device": f"{jax.device_count()} x {device.device_kind}"}
    if device.platform == "gpu":
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        found["driver, memory"] = said.strip().splitlines()[0] if said.strip() else "unknown"
    found["cores"] = str(os.cpu_count())
    found["Python"] = platform.python_version()
    for name in ("jax", "jaxlib", "flax", "torch", "pyautoattack"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["commit"] = known or commit(carried)
    return found


def run_section(arguments: argparse.Namespace) -> None:
    """Measures the rows of one section, in this process."""
    import importlib

    from on_accelerator.rows import Results, Setting

    name = arguments.section
    setting = Setting(
        toy=arguments.rehearse,
        carried=arguments.carried.resolve(),
        out=arguments.out.resolve(),
        deadline=time.monotonic() + arguments.seconds,
    )
    results = Results(arguments.out, machine(arguments.carried, arguments.commit))
    section = importlib.import_module(f"on_accelerator.{name}")
    chosen = re.compile(arguments.rows).search
    tasks = (task for task in section.tasks(setting) if chosen(task.table) or chosen(task.name))
    results.run(name, tasks, setting)


def environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns the environment of a section."""
    found = dict(os.environ)
    # The repository's root: the package need not be installed, and the tests' small networks.
    found["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), found.get("PYTHONPATH", "")])
    if arguments.rehearse:
        found["JAX_PLATFORMS"] = "cpu"
        # Compiled quickly, and what two processes compile only once. Of a flag the last one counts.
        flags = ("--xla_backend_optimization_level=0", "--xla_force_host_platform_device_count=1")
        found["XLA_FLAGS"] = " ".join((found.get("XLA_FLAGS", ""), *flags))
        # At these sizes PyTorch's threads mostly wait for each other.
        found["OMP_NUM_THREADS"] = "1"
        found["JAX_ENABLE_COMPILATION_CACHE"] = "true"
        found["JAX_COMPILATION_CACHE_DIR"] = str(arguments.out.resolve() / "compiled")
        found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    else:
        # PyTorch needs its share of the memory.
        found.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".55")
    return found


def write(arguments: argparse.Namespace) -> str:
    """Writes results.json and results.md; returns the page."""
    from on_accelerator.rows import page, read

    rows = read(arguments.out / "rows.jsonl")
    text = page(rows, "On an accelerator" if not arguments.rehearse else "A rehearsal")
    (arguments.out / "results.json").write_text(json.dumps(rows, indent=1))
    (arguments.out / "results.md").write_text(text)
    return text


def run(arguments: argparse.Namespace) -> bool:
    """Runs the sections one after another; returns whether each came to its end, no row missed."""
    start = time.monotonic()
    limits = dict(LIMITS) | {
        name: float(value) for name, value in (each.split("=") for each in arguments.limit)
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    whole = True
    for name in arguments.sections:
        left = arguments.seconds - (time.monotonic() - start)
        seconds = min(limits[name], left) if not arguments.rehearse else TOY_LIMIT
        if seconds < 10:
            print(f"{name}: no time left", flush=True)
            whole = False
            continue
        command = [
            sys.executable, __file__, "--section", name, "--out", str(arguments.out),
            "--carried", str(arguments.carried), "--seconds", str(seconds),
            "--rows", arguments.rows,
        ]  # fmt: skip
        command += ["--rehearse"] if arguments.rehearse else []
        command += ["--commit", arguments.commit] if arguments.commit else []
        began = time.monotonic()
        try:
            done = subprocess.run(
                command, check=False, timeout=seconds + GRACE, cwd=HERE.parent,
                env=environment(arguments),
            )  # fmt: skip
            whole &= done.returncode == 0
        except subprocess.TimeoutExpired:
            print(f"{name}: ended at its time limit", flush=True)
            whole = False
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        if name == "first_row":
            from on_accelerator import first_row

            first_row.pack(arguments.out)
        write(arguments)
    print(write(arguments))
    rows = json.loads((arguments.out / "results.json").read_text())
    missed = [row for row in rows if "error" in row["values"]]
    for row in missed:
        print(f"missed: {row['section']}: {row['name']}: {row['values']['error']}")
    return whole and not missed


def main() -> int:
    """Prepares, measures one section, or runs them all."""
    arguments = parse()
    sys.path.insert(1, str(HERE.parent))
    if arguments.section:
        run_section(arguments)
        return 0
    if arguments.prepare or arguments.rehearse:
        os.environ.update(environment(arguments), JAX_PLATFORMS="cpu")
        from on_accelerator import agreement, carried
        from on_accelerator.rows import Setting

        if arguments.rehearse:
            arguments.carried = arguments.out / "carried"
            carried.prepare_toy(arguments.carried)
        else:
            carried.prepare(
                arguments.carried, data_dir=arguments.data_dir,
                checkpoints=arguments.checkpoints, num_train=arguments.num_train,
                wheel_model=arguments.wheel_model,
            )  # fmt: skip
        carried.write_commit(arguments.carried)
        agreement.write_reference(
            Setting(arguments.rehearse, arguments.carried, arguments.out, float("inf"))
        )
        if arguments.prepare:
            return 0
    return 0 if run(arguments) else 1


if __name__ == "__main__":
    sys.exit(main())
