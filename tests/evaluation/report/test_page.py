"""The parts of the page: what they say of hand-made records, and that nothing else is needed."""

import base64
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.image import imread

from robust_jax import analysis, formats
from robust_jax.evaluation.records import Decision, Record
from robust_jax.evaluation.report.page import (
    Section,
    command,
    figures,
    filled_table,
    picture,
    table,
    write_page,
)
from robust_jax.evaluation.report.repeat import repeat
from robust_jax.evaluation.report.trust import box, every_check
from robust_jax.evaluation.report.twins import MAX_ATTACKS, different, twins
from robust_jax.evaluation.sanity import Finding

NAMES = ["cat", "dog", "<cow>"]


def decoded(page):
    """The pictures of a page, in order."""
    found = re.findall(r'base64,([^"]+)"', page)
    return [imread(io.BytesIO(base64.b64decode(each))) for each in found]


def record(row, prediction, share=1.0):
    decision = Decision(prediction, prediction == row % 3, [0], share)
    return Record(row, row % 3, 0.1, 0.2, False, {"honest": decision})


CLEAN = {row: np.full((4, 4, 1), 0.2 + 0.1 * row, np.float32) for row in range(4)}
ROWS = np.arange(4, dtype=np.int32)
IMAGES = np.stack([CLEAN[row] for row in range(4)])
RECORDS = {
    "clean": {row: record(row, 2 if row == 0 else row % 3) for row in range(4)},
    "pgd": {0: record(0, 1), 1: record(1, 1), 2: record(2, -1), 3: record(3, 1, share=0.25)},
}


def of_all(names):
    return {"clean": RECORDS["clean"], **dict.fromkeys(names, RECORDS["pgd"])}


def test_a_row_for_each_attack_that_differs():
    moved = IMAGES.copy()
    moved[:, 0, 0] += 0.05
    shown = {
        "none": (ROWS[:0], IMAGES[:0]),
        "still": (ROWS, IMAGES),
        "pgd": (ROWS, moved),
        "pgd again": (ROWS, moved + 1e-4),
        "other": (ROWS, IMAGES - 0.1),
    }
    page = twins(shown, CLEAN, of_all(shown), NAMES, judge="honest", descriptions={"pgd": "<20>"})
    assert re.findall("<h3>(.*?)</h3>", page) == ["pgd", "other"]
    assert (
        "Not shown: still (left these images as they were); pgd again (the images of pgd)" in page
    )
    assert "&lt;20&gt;" in page
    assert "difference &times;&nbsp;10<" in page  # half the range over 0.05
    assert "difference &times;&nbsp;5<" in page
    # Row 0 was wrong before; each of the others is original, adversarial, difference.
    first = [each[..., 0] for each in decoded(page)[:9]]
    for place, row in enumerate((2, 3, 1)):
        original, adversarial, difference = first[3 * place : 3 * place + 3]
        np.testing.assert_allclose(original, CLEAN[row][..., 0], atol=1 / 255)
        np.testing.assert_allclose(adversarial, moved[row, ..., 0], atol=1 / 255)
        np.testing.assert_allclose(difference[0, 0], 1, atol=1 / 255)
        np.testing.assert_allclose(difference[1:], 0.5, atol=1 / 255)
    assert page.count("<img") == page.count('alt="')


def test_what_twins_are_taken_for():
    shown = {"pgd": (ROWS, IMAGES + 0.1)}
    page = twins(shown, CLEAN, RECORDS, NAMES, judge="honest", descriptions={})
    assert page.index('<b class="flag">nothing (NaN)</b>') < page.index('class="passed">dog<')
    assert 'taken for <b class="flag">dog</b><br>25 % of draws right' in page
    assert "<b>&lt;cow&gt;</b>" in page
    assert 'alt="adversarial, taken for dog"' in page
    assert '<img class="pixels"' in page
    large = {0: np.zeros((100, 200, 4), np.float32)}
    shown = {"pgd": (ROWS[:1], np.full((1, 100, 200, 4), 1e-4, np.float32))}
    page = twins(shown, large, RECORDS, NAMES, judge="honest", descriptions={})
    assert 'class="pixels"' not in page
    assert {each.shape[:2] for each in decoded(page)} == {(50, 100)}
    assert "Of every 2 rows and columns of pixels one is shown" in page
    assert 'taken for <b class="flag">&lt;cow&gt;</b>' in page  # the clean image, too


def test_no_twins_and_too_many():
    assert twins({}, {}, RECORDS, NAMES, judge="honest", descriptions={}) == ""
    shown = {"pgd": (ROWS, IMAGES)}
    assert twins(shown, CLEAN, RECORDS, NAMES, judge="honest", descriptions={}) == ""
    shown = {f"pgd {n}": (ROWS, IMAGES + 0.01 * (n + 1)) for n in range(MAX_ATTACKS + 2)}
    assert different(shown, CLEAN, of_all(shown), "honest").more == list(shown)[MAX_ATTACKS:]
    page = twins(shown, CLEAN, of_all(shown), NAMES, judge="honest", descriptions={})
    assert f"Not shown: {', '.join(list(shown)[MAX_ATTACKS:])} (no room)." in page
    # One that turned no image wrong has a row where none did.
    weak = {"weak": (ROWS, IMAGES + 0.01)}
    records = {**RECORDS, "weak": RECORDS["clean"]}
    page = twins({**shown, **weak}, CLEAN, of_all(shown) | records, NAMES,
                 judge="honest", descriptions={})  # fmt: skip
    assert "weak (the images of pgd 0)" in page
    both = {"weak": (ROWS, IMAGES - 0.01), "pgd": (ROWS, IMAGES + 0.1)}
    page = twins(both, CLEAN, records, NAMES, judge="honest", descriptions={})
    assert "Not shown: weak (turned none of these images wrong)." in page
    page = twins(weak, CLEAN, records, NAMES, judge="honest", descriptions={})
    assert "<h3>weak</h3>" in page


PASSED = Finding("gradients", "passed", "they are there")
IDLE = Finding("monotone", "not run", "one eps")
NOTE = Finding("few", "note", "64 images", "take more")
FLAG = Finding("masked", "flag", "queries win", "look closer")


@pytest.mark.parametrize(
    ("findings", "probed", "verdict"),
    [
        ([PASSED, IDLE, NOTE], True, "No check speaks against them."),
        ([PASSED, NOTE], False, "No check of the records speaks against them."),
        ([IDLE], True, "Nobody knows: no check had anything to go by."),
        ([], False, "Nobody knows: no check had anything to go by."),
        ([PASSED, FLAG], True, "Not as they stand: a check has raised a flag."),
        ([FLAG, FLAG], False, "Not as they stand: 2 checks have raised a flag."),
    ],
)
def test_verdict_of_the_checks(findings, probed, verdict):
    page = box(findings, probed=probed)
    assert verdict in page
    assert ("not probed" in page) == (not probed)
    for finding in findings:
        raised = finding.status in ("flag", "note")
        assert (finding.text in page) == raised  # the others are counted
        assert (finding.text in every_check(findings)) == (not raised)
    words = {"flag": "flag(s?)", "note": "note(s?)", "passed": "passed()", "not run": "not run()"}
    for status, word in words.items():
        ((count, plural),) = re.findall(rf"<b>(\d+)</b> {word}<", page)
        assert int(count) == sum(finding.status == status for finding in findings)
        assert plural in ("", "s" * (count != "1"))
    target = re.search('href="#([^"]+)"', page)
    assert target[1] == "the-checks-one-by-one"


def test_tables():
    page = table(["attack", "honest\nright <after>"], [["a", "1 %"], ["b", "2 %"]], total=1)
    assert '<th scope="col">honest<small>right &lt;after&gt;</small></th>' in page
    assert page.count('class="total first"') == 1
    page = table(["", ""], [["a", "1 %"], ["b", "2 %"], ["c", "3 %"]], total=2)
    assert "<th" not in page
    assert page.count('class="total') == 2
    assert page.count("first") == 1
    page = filled_table(["attack", "none", "some"], [["a", "-", "-"], ["b", "-", "1"]])
    assert re.findall(r">(\w+)</th>", page) == ["attack", "some"]


@pytest.mark.slow
def test_figures_take_the_width_of_the_page():
    curve = analysis.accuracy_curves({"a": {0.0: np.ones(3, bool), 0.1: np.zeros(3, bool)}})
    before = tuple(curve.get_size_inches())
    page = picture(curve, "accuracy & eps")
    assert 'width="1008"' in page
    assert 'media="(max-width: 700px)"' in page  # as it was drawn
    assert 'alt="accuracy &amp; eps"' in page
    assert tuple(curve.get_size_inches()) == before
    square = analysis.confusion_matrix(np.arange(3), np.arange(3), NAMES)
    (image,) = decoded(picture(square, "confusion"))
    np.testing.assert_allclose(image.shape[1::-1], 160 * square.get_size_inches(), atol=1)
    assert figures([]) == ""
    beside = figures([(square, "one"), (square, "two"), (curve, "three")])
    assert beside.count("<figure") == 3
    assert beside.count('class="whole"') == 1


SUMMARY = {"command": "python evaluate.py --checkpoint 'my runs/a'"}


def test_the_folder_of_a_page_is_made(tmp_path):
    write_page(tmp_path / "not" / "there" / "page.html", "A title", "", [])
    assert "A title" in (tmp_path / "not" / "there" / "page.html").read_text()


def test_commands_that_repeat_it(tmp_path):
    page = repeat(SUMMARY, tmp_path / "report.html")
    assert "python evaluate.py --checkpoint &#x27;my runs/a&#x27;" in page
    assert page.count("<button") == 1
    (tmp_path / "checkpoints").mkdir()
    environment = {"num_devices": 2, "versions": {"jax": "1.2", "numpy": "3"}}
    found = {**SUMMARY, "environment": environment, "earlier_environments": [environment]}
    for kept in ({**found, "command": "another"}, None, found):
        if kept is None:
            (tmp_path / "summary.json").write_text("{")  # torn
        else:
            formats.write(tmp_path / "summary.json", kept)
        page = repeat(found, tmp_path / "report.html")
        assert page.count("<button") == (3 if kept is found else 1)
    assert f"robust_jax.commands.evaluate --checkpoint {tmp_path}<" in page
    assert f"robust_jax.evaluation.compare {tmp_path} OTHER<" in page
    assert "<td>number of devices</td>" in page
    assert "jax 1.2, numpy 3" in page
    assert "environments.jsonl" in page
    for started in ("python /x/ipykernel_launcher.py -f kernel.json", "python -c", "python", ""):
        assert repeat({"command": started}, tmp_path / "elsewhere" / "page.html") == ""


def test_a_button_copies_the_command(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs a browser")
    file = tmp_path / "page.html"
    parts = [Section("One & two", command("python 'a & b' <c>"))]
    write_page(file, "title", "", parts)
    script = """<script>
      navigator.clipboard.writeText = async (words) => { document.title = words; };
      document.querySelector("button").click();
      dispatchEvent(new Event("beforeprint"));
    </script></body>"""
    file.write_text(file.read_text().replace("</body>", script))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    found = subprocess.run(
        [browser, *options, "--virtual-time-budget=500", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert ":CONSOLE" not in found.stderr
    assert "<title>python 'a &amp; b' &lt;c&gt;</title>" in found.stdout
    assert '<section id="one-two"><h2>One &amp; two</h2>' in found.stdout
    assert re.search(r"<button[^>]*>Copied</button>", found.stdout)
    assert "hidden" not in re.search(r"<button[^>]*>", found.stdout)[0]
