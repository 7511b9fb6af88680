"""What a run writes: one line a step, also after it was stopped; a table with the numbers."""

import json
import re
import time

from robust_jax.evaluation.report import terminal
from robust_jax.runtime import logging

BALL = "linf eps 0.1"
JUDGE = {
    "counts": "attacked",
    "clean_accuracy": 0.75,
    "robust_accuracy": {"fgsm": 0.5, "pgd": 0.25},
    "worst_case_accuracy": {BALL: 0.24},
    "worst_of": {"both": 0.2},
    "single_draw": {"clean": 0.71, "fgsm": 0.41, "pgd": 0.31},
    "submissions": {"10": {"clean": 0.45, "fgsm": 0.85, "pgd": 0.95}},
    "rejudged": {"times": 3, "accuracy": 0.57},
    "intervals": {
        "clean_accuracy": [0.3, 0.95],
        "robust_accuracy": {"fgsm": [0.15, 0.85], "pgd": [0.05, 0.7]},
        "worst_case_accuracy": {BALL: [0.05, 0.7]},
        "worst_of": {"both": [0.04, 0.6]},
    },
}
SUMMARY = {
    "num_examples": 4,
    "selection": "random",
    "budget": "reduced",
    "wall_seconds": 1.5,
    "judges": {"honest": JUDGE},
}


def test_steps_that_are_taken_again_have_one_line(tmp_path):
    with logging.MetricWriter(tmp_path, start=0) as writer:
        for step in (5, 10, 15):
            writer.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 20, "lo')  # a kill in the middle of a line
    with logging.MetricWriter(tmp_path, start=10) as writer:
        writer.write(15, {"loss": -1.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 5, "loss": 5.0}, {"step": 10, "loss": 10.0}, {"step": 15, "loss": -1.0},
    ]  # fmt: skip
    assert list((tmp_path / "tensorboard").iterdir())


def test_table_shows_every_number(capsys, monkeypatch):
    monkeypatch.setattr(logging.console, "_width", 200)
    terminal.print_summary("title", SUMMARY, {"pgd": "PGD, eps 0.1"})
    printed = capsys.readouterr().out
    for text in ("title", "75.00 %", "50.00 %", "25.00 %", "30.00 .. 95.00", "PGD, eps 0.1"):
        assert text in printed
    for text in ("honest", "both", "20.00 %", "Selection: random", "not comparable"):
        assert text in printed
    for text in ("right after the attack", "worst case, linf eps 0.1", "24.00 %"):
        assert text in printed
    for text in ("one draw", "1 of 10", "31.00 %", "95.00 %", "57.00 % (3 times)"):
        assert text in printed
    assert "4 examples, 1.5 s" in printed


def test_rate_counts_since_the_last_reading():
    rate = logging.Rate()
    rate.add(100)
    assert rate.read() > 0
    assert rate.read() == 0


def test_progress_without_a_terminal_is_in_lines(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logging.time, "monotonic", lambda: now[0])
    with logging.Progress(enabled=True) as progress:
        for seconds, name, done in (
            (10, "a", 1),
            (59, "a", 2),
            (70, "a", 3),
            (80, "a", 4),
            (95, "b", 4),
        ):
            now[0] = float(seconds)
            progress.update(name, done, 4, status="well" if name == "b" else "")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["a: 3 of 4 in 70 s", "a: 4 of 4 in 80 s", "b: 4 of 4 in 15 s  well"]
    with logging.Progress(enabled=False) as progress:
        progress.update("a", 4, 4)
    assert capsys.readouterr().out == ""


def test_a_minute_of_silence_is_broken(capsys, monkeypatch):
    """By a task that tells nothing: a batch that takes minutes, checks that count nothing."""
    monkeypatch.setattr(logging, "MINUTE", 0.1)
    with logging.Progress(enabled=True) as progress:
        time.sleep(0.3)  # while the first program is compiled
        progress.update("square", 0, 4)
        time.sleep(0.5)
        with progress.during("checks"):
            time.sleep(0.5)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"at work for \d+ s", lines[0])
    silent = [line for line in lines if re.fullmatch(r"square: 0 of 4, at work for \d+ s", line)]
    assert 2 <= len(silent) <= 6
    assert re.fullmatch(r"checks: 0 of 1, at work for \d+ s", lines[-2])
    assert re.fullmatch(r"checks: 1 of 1 in \d+ s", lines[-1])
    time.sleep(0.3)
    assert capsys.readouterr().out == ""  # it is over


def test_who_tells_often_is_not_interrupted(capsys, monkeypatch):
    """The line of the minute is the task's own, with its status."""
    monkeypatch.setattr(logging, "MINUTE", 0.2)
    with logging.Progress(enabled=True) as progress:
        for step in range(20):
            time.sleep(0.05)
            progress.update("train", step, 100, status="loss 1")
    lines = capsys.readouterr().out.splitlines()
    assert 3 <= len(lines) <= 6
    assert all(line.endswith("loss 1") for line in lines)
