"""Two processes with two devices each, on one machine: train, save, restore, one set of records."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import chex
import pytest

from robust_jax.experiment import checkpoints
from robust_jax.runtime import sharding

CONFIG = """
import sys
sys.path.insert(0, {repository!r})
from tests import small
import dataclasses
from robust_jax.attacks import APGD, AutoAttack
from robust_jax.evaluation.protocol import AttackRun
from robust_jax.training import FreeAdversarialTraining
VARIANTS = ("default",)
def get_config(variant):
    free = FreeAdversarialTraining(small.THREAT, num_replays=2) if {free} else None
    cfg = small.config(small.noisy() if {noisy} else None, max_steps=22, adversarial=free)
    if {noisy}:  # a suite runs on the host
        apgd = APGD(small.THREAT, num_steps=2)
        suite = AutoAttack(small.THREAT, version="custom", attacks=(apgd,), batch_size=40)
        attacks = cfg.evaluation.attacks | {{"suite": AttackRun(suite, view="noise_off")}}
        fields = {{"attacks": attacks}}
        if {checked}:
            fields |= {{"measures": None, "sanity": True}}
        cfg = dataclasses.replace(cfg, evaluation=dataclasses.replace(cfg.evaluation, **fields))
    return dataclasses.replace(cfg, runtime=dataclasses.replace(cfg.runtime, num_devices=None))
"""


def start(
    repository, config, workdir, *, num_processes=1, devices=1, process=0, port=0, **environment
):
    flags = re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])
    command = [sys.executable, "train.py", str(config), "--workdir", str(workdir)]
    if num_processes > 1:
        command += [
            "--runtime.distributed",
            "--runtime.coordinator-address", f"127.0.0.1:{port}",
            "--runtime.num-processes", str(num_processes),
            "--runtime.process-id", str(process),
        ]  # fmt: skip
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(
        command, cwd=repository, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def config_file(tmp_path, repository):
    def write(*, noisy, checked=False, free=False):
        path = tmp_path / "multi.py"
        fields = {"noisy": noisy, "checked": checked, "free": free}
        path.write_text(CONFIG.format(repository=str(repository), **fields))
        return path

    return write


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def finish(processes, timeout=480):
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-2000:]
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize("checked", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_two_processes_train_and_evaluate_as_one(checked, tmp_path, repository, config_file):
    config = config_file(noisy=True, checked=checked)
    port = free_port()
    several = {"num_processes": 2, "devices": 2, "port": port}
    pair = [start(repository, config, tmp_path / "pair", process=i, **several) for i in range(2)]
    outputs = finish(pair)
    assert "worst case" in outputs[0]
    assert "worst case" not in outputs[1]
    finish([start(repository, config, tmp_path / "one", devices=4)])
    mesh = sharding.make_mesh(4)
    models = [checkpoints.load(tmp_path / name, mesh, step=22) for name in ("pair", "one")]
    chex.assert_trees_all_close(models[0].variables, models[1].variables, rtol=1e-5, atol=1e-6)
    summaries = [
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("pair", "one")
    ]
    for name in ("num_examples", "clean_accuracy", "robust_accuracy", "worst_case_accuracy"):
        assert summaries[0][name] == summaries[1][name]
    if checked:
        checks = [[(found["check"], found["status"]) for found in s["sanity"]] for s in summaries]
        assert checks[0] == checks[1]
        assert any("has gradients" in check for check, _ in checks[0])
        assert "Inside the network" in (tmp_path / "pair" / "report.html").read_text()
    lines = (tmp_path / "pair" / "records" / "clean.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(90))


@pytest.mark.slow
def test_killed_run_keeps_its_last_checkpoint(tmp_path, repository, config_file):
    config = config_file(noisy=False)
    workdir = tmp_path / "killed"
    process = start(repository, config, workdir)
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / "11").is_dir() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert checkpoints.load(workdir, sharding.make_mesh(1)).step >= 11
    # What these two compile, they compile once; a process that is killed may leave half a file.
    cache = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    finish([start(repository, config, workdir, **cache)])
    finish([start(repository, config, tmp_path / "whole", **cache)])
    models = [
        checkpoints.load(folder, sharding.make_mesh(1), step=22).variables
        for folder in (workdir, tmp_path / "whole")
    ]
    chex.assert_trees_all_equal(*models)


@pytest.mark.nightly
def test_what_lies_on_two_hosts_in_parts_is_gone_on_with(tmp_path, repository, config_file):
    """The perturbation of free adversarial training is split as a batch is."""
    config, workdir = config_file(noisy=False, free=True), tmp_path / "free"

    def pair():
        several = {"num_processes": 2, "devices": 2, "port": free_port()}
        return [start(repository, config, workdir, process=i, **several) for i in range(2)]

    first = pair()
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / "11").is_dir() and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in first:
        process.send_signal(signal.SIGKILL)
    for process in first:
        process.communicate()
    outputs = finish(pair())
    assert "Going on from step" in outputs[0]
    assert checkpoints.load(workdir, sharding.make_mesh(1), step=22).step == 22
