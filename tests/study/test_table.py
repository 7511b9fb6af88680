"""What stands in a study's tables and on its page."""

import dataclasses

from robust_jax.attacks import ThreatModel
from robust_jax.study import Row, Study, page, run, table

LINF = ThreatModel("linf", 0.1)
ROWS = {"plain": Row("plain", "plain"), "ranks": Row("REGroup", "REGroup", after="plain")}
STUDY = Study("A study", ROWS, (LINF,))


def line(name, clean, paper, worst, *, flags=(), time=1.5, budget="full"):
    """Returns a row's line of these accuracies."""

    def share(value):
        return table.Share(value, max(0.0, value - 0.1), min(1.0, value + 0.1))

    row = ROWS[name]
    left = table.InBall(share(worst), share(paper), None, None, 0.4, None)
    return table.Line(
        run.Task(name, 0, row.after), row.title, row.family, 64, budget, share(clean),
        {str(LINF): left}, flags, time,
    )  # fmt: skip


def test_one_draw_is_of_what_draws():
    """Not of a judge without noise, nor of a vote; nothing where nothing is drawn."""

    def judge(robust, draw, *, drawn):
        interval = {"worst_case_accuracy": {str(LINF): [0.0, 1.0]}, "robust_accuracy": {}}
        return {
            "worst_case_accuracy": {str(LINF): robust}, "robust_accuracy": {},
            "single_draw": {"clean": 0.9, table.in_ball("eot", LINF): draw, "other": 0.0},
            "submissions": {"1": {}} if drawn else {}, "intervals": interval,
        }  # fmt: skip

    def one_draw(*drawn):
        judges = {
            "paper": judge(0.2, 0.1, drawn=drawn[0]),
            "honest": judge(0.5, 0.4, drawn=drawn[1]),
        }
        return table._in_ball({"judges": judges}, LINF).one_draw

    assert (one_draw(False, True), one_draw(False, False)) == (0.4, None)


def test_seeds_are_in_the_order_of_numbers(tmp_path):
    for seed in (10, 2):
        (tmp_path / "plain" / f"seed{seed}").mkdir(parents=True)
    assert [task.seed for task in table.found(STUDY, tmp_path)] == [2, 10]


def test_seeds_stand_beside_intervals():
    lines = [line("plain", 0.9, 0.5, 0.1), line("ranks", 0.8, 0.6, 0.05)]
    assert [one.heading for one in page.tables(STUDY, lines)] == [None, str(LINF)]
    again = run.Task("plain", 3, None)
    lines.insert(1, line("plain", 0.7, 0.5, 0.2)._replace(task=again))
    *others, seeds = page.tables(STUDY, lines)
    assert [len(one.rows) for one in others] == [2, 2]
    (row,) = seeds.rows
    assert row[:2] == ["plain", "0, 3"]
    assert row[2].startswith("70.00 % to 90.00 %")
    assert row[3] == "10.00 % to 20.00 % <small>interval 0.0 to 20.0</small>"
    assert "2 rows and 1 of further seeds, 64 test images each" in page.markdown(STUDY, lines)
    noted = dataclasses.replace(STUDY, note="By half the steps.")
    assert "64 test images each. By half the steps. Acc" in page.markdown(noted, lines)
    axes = page.figure(STUDY, lines).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["REGroup", "plain"]


def test_a_check_is_said_once():
    checks = ["view 'a' has gradients", "number of examples", "view 'b' has gradients"]
    checks += ["view 'b': gradients beat queries", "view 'a' has gradients"]
    assert table.raised(checks) == (
        "has gradients (a, b)", "number of examples", "gradients beat queries (b)"
    )  # fmt: skip


def test_the_page_has_every_row(tmp_path):
    lines = [line("plain", 0.9, 0.5, 0.1, flags=("view 'x' has gradients",))]
    text = page.write(STUDY, lines, spec="mine.py", out=tmp_path, outdated=lines).read_text()
    for words in (
        "Not run: REGroup",
        "Of an earlier evaluation: plain",
        "40.00 %",
        "0.0 to 20.0",
        "has gradients",
        "mine.py --only",
    ):
        assert words in text
    assert page.REDUCED not in text
    assert "--budget" not in text
    lines = [line("plain", 0.9, 0.5, 0.1, budget="reduced")]
    text = page.write(STUDY, lines, spec="mine.py", out=tmp_path).read_text()
    assert page.REDUCED in text
    assert "--only ROW --budget reduced" in text
    assert (tmp_path / "study.png").stat().st_size > 0
    axes = page.figure(STUDY, [*lines, line("ranks", 0.8, 0.6, 0.05)]).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["REGroup", "plain"]
