"""What a browser makes of a page, where there is one."""

import re
import shutil
import subprocess

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def needs_a_browser():
    """Ends a test here, as one that was skipped, where there is none."""
    if BROWSER is None:
        pytest.skip("the rest needs Chromium")


def measured(file, name, width, expression, change=("", "")):
    """In a browser two numbers of the page; nothing goes wrong there."""
    script = f"<script>document.title = {expression}</script>"
    copy = file.with_name(f"{name}.html")
    copy.write_text(file.read_text().replace(*change).replace("</body>", f"{script}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    found = subprocess.run(
        [BROWSER, *options, f"--window-size={width},900", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert ":CONSOLE" not in found.stderr
    numbers = re.search(r"<title>(\d+) (\d+)</title>", found.stdout)
    return int(numbers[1]), int(numbers[2])


def assert_fits(file, width):
    """Nothing is wider than the window."""
    root = "document.documentElement"
    expression = f"`${{{root}.scrollWidth}} ${{{root}.clientWidth}}`"
    wide, window = measured(file, width, width, expression)
    assert wide <= window


def assert_prints(file):
    """On A4 no table is wider than the paper between the margins, and nothing is folded."""
    rights = "[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)"
    expression = f"`${{Math.ceil(Math.max(...{rights}))}} ${{document.body.clientWidth}}`"
    paper = ("@media print", "@media all")
    wide, sheet = measured(file, "paper", 688, expression, paper)
    assert wide <= sheet
    folded = "[...document.querySelectorAll('details table')].filter(t => !t.offsetHeight).length"
    assert measured(file, "folded", 688, f"`${{{folded}}} 0`", paper) == (0, 0)
