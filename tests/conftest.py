"""Strict JAX for every test: four CPU devices, no reused key, no silent promotion."""

import gc
import importlib.metadata
import inspect
import os
import pathlib
import time
import types
from collections import Counter

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4"
    # The tests compile far more than they compute: LLVM at -O0 compiles Threefry ten times faster.
    # What is named here the library leaves as it is, in processes that tests start too.
    + " --xla_backend_optimization_level=0"
    # Programs this small compile quicker whole than in parts.
    + " --xla_cpu_parallel_codegen_split_count=1"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Its other way to emit fusions compiles in a third of the time; later versions have no choice.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["JAX_PLATFORMS"] = "cpu"
# Nobody looks at the lines of Python that operations are of: a fifteenth of the time.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# Traces make many objects that stay: by Python's thresholds a tenth of the run looks through them.
gc.set_threshold(200_000, 20, 50)
# There are as many processes as cores: more threads of NumPy's and PyTorch's only wait for them.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# No test reads or writes the user's cache of compiled programs.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

from tests import type_checks  # noqa: E402

if os.environ.get("ROBUST_JAX_TYPE_CHECKS") != "0":  # without: as users have it, and quicker
    type_checks.install()

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from robust_jax.runtime import compilation  # noqa: E402
from tests import executables, ir_contexts  # noqa: E402

ir_contexts.share()
executables.share()

if "JAX_DEBUG_KEY_REUSE" not in os.environ:  # a twelfth of the time
    jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture
def torn_reads():
    """For a test of a damaged checkpoint, of whose arrays the first that fails ends the others.

    What orbax was still reading complains of its closed loop whenever it comes in or is collected:
    here, where it is let pass (`pytest_itemcollected`), and not in a later test.
    """
    yield
    for _ in range(100):
        gc.collect()
        coroutines = [one for one in gc.get_objects() if type(one) is types.CoroutineType]
        if not any(inspect.getcoroutinestate(one) == inspect.CORO_SUSPENDED for one in coroutines):
            return
        time.sleep(0.1)
    raise AssertionError("The reads of a damaged checkpoint go on after ten seconds.")


@pytest.fixture(scope="session")
def tfds_dir() -> pathlib.Path:
    """The folder of prepared TFDS datasets beside the repository."""
    path = SHARED / "data" / "tensorflow_datasets"
    if not path.is_dir():
        pytest.skip("needs prepared TFDS datasets in ../shared/data/tensorflow_datasets")
    return path


@pytest.fixture(scope="session")
def public_checkpoints() -> pathlib.Path:
    """The folder of public PyTorch checkpoints beside the repository."""
    path = SHARED / "checkpoints"
    if not path.is_dir():
        pytest.skip("needs public checkpoints in ../shared/checkpoints")
    return path


QUICK_PROGRAMS = {}


@pytest.fixture
def quick_programs(monkeypatch):
    """Programs that run for thousands of passes are compiled as a user's are.

    A function keeps the options that it is first called with: these are beside it, and no later
    test has them, which may compare bits.
    """
    options = {**compilation.CPU_OPTIONS, "xla_backend_optimization_level": 2}

    def outermost(function):
        if function not in QUICK_PROGRAMS:
            QUICK_PROGRAMS[function] = function.with_options(options)
        return QUICK_PROGRAMS[function]

    monkeypatch.setattr(compilation.Jitted, "outermost", property(outermost))


@pytest.fixture
def without_type_checks(monkeypatch):
    """As the package is where nobody checks types: what it says itself counts."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# Each compiled function keeps memory maps, of which Linux gives a process 65,530.
MAPS = pathlib.Path("/proc/self/maps")
MAX_MAPS = 40_000


@pytest.fixture(autouse=True, scope="module")
def _release_compiled_functions():
    """Gives back what was compiled before there are too many; what is left serves other files."""
    yield
    if not MAPS.exists() or MAPS.read_bytes().count(b"\n") > MAX_MAPS:
        jax.clear_caches()
        executables.forget()


MARKS = ("nightly", "slow")
LEFT_OUT = dict.fromkeys(("quick", *MARKS), 0)


QUICK_OR_NOT = Counter()


def pytest_itemcollected(item):
    """Lets reads of damaged checkpoints complain; makes parameters slow that are not quick."""
    share = item.get_closest_marker("quick_one_in")
    if share is not None and not any(map(item.get_closest_marker, MARKS)):
        test = item.path, item.originalname
        if QUICK_OR_NOT[test] % share.args[0]:
            item.add_marker(pytest.mark.slow)
        QUICK_OR_NOT[test] += 1
    if "torn_reads" in item.fixturenames:
        let_pass = "ignore::pytest.PytestUnraisableExceptionWarning"
        item.add_marker(pytest.mark.filterwarnings(let_pass))


def pytest_addoption(parser):
    """Adds what leaves tests out besides marks: nightly they all run."""
    parser.addoption("--every", type=int, default=1, help="one of N tests")
    parser.addoption("--turn", type=int, default=0, help="which: N turns in a row run all of them")


@pytest.hookimpl(trylast=True)  # of what is left by then
def pytest_collection_modifyitems(config, items):
    """Files of few tests come first: the long ones are among them, and short ones fill the end."""
    every, first = config.option.every, config.option.turn % config.option.every
    left_out = [item for number, item in enumerate(items) if number % every != first]
    items[:] = items[first::every]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: counts[item.path])


def pytest_collection_finish():
    """What was imported stays: nobody need look through it again for what may be collected."""
    gc.collect()
    gc.freeze()


def pytest_deselected(items):
    """Counts what this process leaves out, by mark."""
    for item in items:
        mark = next((name for name in MARKS if item.get_closest_marker(name)), "quick")
        LEFT_OUT[mark] += 1


def pytest_sessionfinish(session):
    """Sends the counts of one worker to the process that prints; all workers have the same."""
    # pytest looks five times for what complains when it is collected: what is left stays.
    gc.collect()
    gc.freeze()
    if getattr(session.config, "workerinput", None) is not None:
        session.config.workeroutput["left_out"] = LEFT_OUT


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Takes a worker's counts."""
    LEFT_OUT.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter):
    """Prints what was left out, and the command that runs it."""
    # What is both counts as nightly.
    commands = {"quick": "pytest", "nightly": "pytest -m nightly"}
    commands["slow"] = 'pytest -m "slow and not nightly"'
    parts = [f"{count} {name} ({commands[name]})" for name, count in LEFT_OUT.items() if count]
    if parts:
        terminalreporter.write_line(f"left out: {', '.join(parts)}")
