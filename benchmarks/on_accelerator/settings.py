"""What each of XLA's options makes of an attack and of a training step, one changed at a time."""

import functools
from collections.abc import Iterator
from typing import Any

import jax

from on_accelerator import attacks, sides, training
from on_accelerator.rows import Setting, Task, Value
from robust_jax.methods import Standard

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "convolutions in NHWC": {"xla_gpu_force_conv_nhwc": True},
    "convolutions in NCHW": {"xla_gpu_force_conv_nchw": True},
    "latency hiding scheduler": {"xla_gpu_enable_latency_hiding_scheduler": True},
    "any convolution algorithm": {"xla_gpu_strict_conv_algorithm_picker": False},
    "no Triton products": {"xla_gpu_enable_triton_gemm": False},
    "no autotuning": {"xla_gpu_autotune_level": 0},
    "every command in graphs": {"xla_gpu_graph_min_graph_size": 1},
}


def tasks(setting: Setting) -> Iterator[Task]:
    """Yields the rows."""
    sizes = {"PGD-20": 8 if setting.toy else 256, "step": 8 if setting.toy else 512}
    case = attacks.cases(setting)[-1]
    images, labels = attacks.batch_of(setting, case, sizes["PGD-20"])
    attack = case.attack("PGD-20")
    config = Standard(network=training.network_of(setting), dtype="bfloat16")

    def call(view: Any, images: Any, labels: Any) -> Any:
        return attack(view, images, labels, key=jax.random.key(0))

    def run(options: dict[str, Any]) -> dict[str, Value]:
        found = sides.compiled(call, "default", case.view(), images, labels, options=options)
        loop = training.Loop(setting, config, sizes["step"], "default", options=options)
        seconds = sides.in_turn({"ours": found.run}, 3)["ours"]
        num_steps = 2 if setting.toy else 30
        return {
            "PGD-20, images/s": sizes["PGD-20"] / seconds,
            "compile s": found.seconds,
            "epoch in bfloat16, s": training.seconds_per_epoch(loop.run, sizes["step"], num_steps),
            "its compile s": loop.compile_seconds,
        }

    for name, options in {"none": {}}.items() if setting.toy else OPTIONS.items():
        table = (
            f"PGD-20 on {case.name}, batch {sizes['PGD-20']}; a training step of {sizes['step']}"
        )
        yield Task(table, name, functools.partial(run, options))
