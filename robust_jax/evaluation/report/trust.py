"""Whether an evaluation's numbers can be trusted: what its sanity checks found."""

from collections.abc import Sequence

from robust_jax.evaluation.report.page import anchor, table
from robust_jax.evaluation.sanity import Finding
from robust_jax.runtime.wording import text

EVERY_CHECK = "The checks, one by one"
"""Title of the section that the box leads to."""

STATUS_WORDS = {"flag": "Flag", "note": "Note", "passed": "Passed", "not run": "Not run"}
_COUNTED = {"flag": ("flag", "flags"), "note": ("note", "notes")}


def box(findings: Sequence[Finding], *, probed: bool) -> str:
    """Returns what stands beside the headline: a verdict, counts, and all that was raised.

    Args:
        findings: of the checks.
        probed: was the model itself asked, or were the records alone?
    """
    counts = {status: sum(one.status == status for one in findings) for status in STATUS_WORDS}
    if counts["flag"]:
        kind, color, word = "raised", "flag", "Not as they stand: a check has raised a flag."
        if counts["flag"] > 1:
            word = f"Not as they stand: {counts['flag']} checks have raised a flag."
    elif not counts["passed"]:
        kind, color, word = "unknown", "note", "Nobody knows: no check had anything to go by."
    elif not probed:
        kind, color, word = "unknown", "note", "No check of the records speaks against them."
    else:
        kind, color, word = "unopposed", "passed", "No check speaks against them."
    listed = "".join(_count(status, number) for status, number in counts.items())
    raised = "".join(
        f"<li>{_status(one)} <b>{text(one.check)}</b>: {text(one.text)} "
        f"<i>{text(one.next_step)}</i></li>"
        for status in ("flag", "note")
        for one in findings
        if one.status == status
    )
    raised = raised and f'<ul class="all">{raised}</ul>'
    asleep = "" if probed else "<p>The model itself was not probed: <code>sanity=False</code>.</p>"
    return (
        f'<aside class="trust {kind}" aria-labelledby="trust"><h2 id="trust">Can these numbers be '
        f'trusted?</h2><p class="{color}"><b>{word}</b></p><ul class="counts">{listed}</ul>'
        f"{asleep}{raised}"
        f'<a href="#{anchor(EVERY_CHECK)}">{text(EVERY_CHECK)}</a></aside>'
    )


def every_check(findings: Sequence[Finding]) -> str:
    """Returns the findings that the box only counts, folded."""
    folded = []
    for status, words in (("passed", "passed"), ("not run", "did not run")):
        found = [
            [_status(one), text(one.check), f"{text(one.text)} {text(one.next_step)}"]
            for one in findings
            if one.status == status
        ]
        if found:
            listed = table(["", "check", "what was found"], found)
            folded.append(f"<details><summary>{len(found)} {words}</summary>{listed}</details>")
    lead = (
        "<p>Flags and notes stand at the top: a flag means not to quote the numbers as they are, a "
        "note is to be kept in mind. A check that did not run says nothing, and that all pass is "
        "no proof.</p>"
    )
    return lead + "".join(folded)


def _count(status: str, number: int) -> str:
    """Returns how many findings are of a kind, in its colour where there are any."""
    word = _COUNTED.get(status, (status, status))[number != 1]
    kind = f' class="{status.replace(" ", "")}"' if number else ""
    return f"<li{kind}><b>{number}</b> {word}</li>"


def _status(finding: Finding) -> str:
    kind = finding.status.replace(" ", "")
    return f'<span class="status {kind}">{STATUS_WORDS[finding.status]}</span>'
