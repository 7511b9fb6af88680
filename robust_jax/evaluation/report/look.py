"""How a page looks on a screen and on paper, and the few lines that copy a command."""

STYLE = """
:root { --ink: #1c1e21; --quiet: #5f6368; --line: #e3e5e8; --paper: #ffffff; --accent: #00629b;
  --flag: #b3261e; --note: #8a5a00; --passed: #1e6b3a; --shade: #f5f6f7; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 24px 80px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 22px 0 6px; }
p { margin: 6px 0 12px; max-width: 75ch; }
a { color: var(--accent); }
.quiet { color: var(--quiet); }
.facts { max-width: none; color: var(--quiet); }
.stamp { display: inline-block; border: 2px solid var(--flag); color: var(--flag);
  font-weight: 600; padding: 3px 10px; border-radius: 4px; margin: 8px 0; }
.top { display: grid; grid-template-columns: minmax(0, 6fr) minmax(0, 5fr); gap: 18px 36px;
  align-items: start; margin-top: 14px; }
/* With more than two to read, the box is below the sentence, as wide as the page. */
.top:has(.all li:nth-child(3)) { grid-template-columns: minmax(0, 1fr); }
.top:has(.all li:nth-child(3)) .all { columns: 26em 2; column-gap: 36px; }
.all li { break-inside: avoid; }
.words { font-size: 20px; line-height: 1.45; margin: 0 0 10px; }
.words + .words { font-size: 16px; }
.trust { border-left: 4px solid var(--note); background: var(--shade); padding: 12px 18px;
  border-radius: 0 6px 6px 0; }
.trust.raised { border-color: var(--flag); } .trust.unopposed { border-color: var(--passed); }
.trust h2 { margin: 0 0 4px; padding: 0; border: 0; font-size: 16px; }
.trust p { margin: 4px 0 8px; } .trust ul { margin: 8px 0; padding: 0; list-style: none; }
.trust .all li { margin: 6px 0; }
.trust .counts { display: flex; flex-wrap: wrap; gap: 2px 18px; }
.scroll { overflow-x: auto;  /* shaded at an edge behind which there is more */
  background:
    linear-gradient(to right, var(--paper) 9px, transparent) 0 0 / 24px 100% no-repeat local,
    linear-gradient(to left, var(--paper) 9px, transparent) 100% 0 / 24px 100% no-repeat local,
    linear-gradient(to right, #0003, transparent) 0 0 / 8px 100% no-repeat scroll,
    linear-gradient(to left, #0003, transparent) 100% 0 / 8px 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
th small { display: block; font-weight: 400; color: var(--quiet); }
td:first-child { overflow-wrap: break-word; min-width: 8em; }
td:first-child:has(.status) { min-width: 0; } td:has(> .status) + td { min-width: 11em; }
td.number { white-space: nowrap; min-width: 6.5em; } td.number small { display: block; }
td small, p small { color: var(--quiet); }
tr.total td { font-weight: 600; } tr.first td { border-top: 2px solid var(--ink); }
tr.total small { font-weight: 400; }
.status { font-weight: 600; white-space: nowrap; }
.flag { color: var(--flag); } .note { color: var(--note); } .passed { color: var(--passed); }
figure { margin: 14px 0 22px; }
figure img { max-width: 100%; height: auto; }
figcaption { color: var(--quiet); max-width: 75ch; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr));
  gap: 8px 28px; align-items: start; }
.figures .whole { grid-column: 1 / -1; }
.twins { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 12px 28px;
  margin: 6px 0 14px; }
.twin { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 0 6px; margin: 0;
  align-content: start; }
.twin img { width: 100%; max-width: none; display: block; border: 1px solid var(--line); }
.twin .pixels { image-rendering: pixelated; }
.twin span { font-size: 13px; line-height: 1.3; padding-top: 3px; overflow-wrap: anywhere; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--accent); }
code { overflow-wrap: anywhere; font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
.command { display: flex; gap: 10px; align-items: start; background: var(--shade);
  border-radius: 6px; padding: 10px 12px; margin: 4px 0 14px; }
.command pre { margin: 0; flex: 1; min-width: 0; white-space: pre-wrap; font-size: 13px; }
.command button { font: inherit; font-size: 13px; padding: 2px 12px; cursor: pointer;
  color: var(--ink); background: var(--paper); border: 1px solid var(--quiet);
  border-radius: 4px; }
@media (max-width: 800px) { .top { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 640px) { main { padding: 20px 16px 60px; } .words { font-size: 18px; }
  th, td { padding-right: 10px; } td.number { min-width: 0; }
  .twins { grid-template-columns: minmax(0, 1fr); } }
@page { margin: 14mm; }
@media print {
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  h2 { margin-top: 18px; } h2, h3, summary { break-after: avoid; }
  h2 + *, h3 + * { break-before: avoid; }
  .words { font-size: 13pt; } .words + .words { font-size: 11pt; }
  .top { grid-template-columns: minmax(0, 1fr); }
  .trust, .command { background: none; border-style: solid; border-width: 1px; }
  .command { border-color: var(--line); }
  .trust { border-left-width: 4px; }
  .scroll { overflow: visible; background: none; } table { font-size: 8.5pt; }
  th, td { padding: 3px 8px 3px 0; overflow-wrap: anywhere; } td:first-child { min-width: 0; }
  td:first-child:has(.status) { white-space: nowrap; overflow-wrap: normal; }
  thead { display: table-header-group; }
  tr, figure, .together, .trust li { break-inside: avoid; }
  .figures { grid-template-columns: 1fr 1fr; gap: 4px 16px; } figure { margin: 6px 0 10px; }
  .twin span { font-size: 8pt; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  button { display: none; }
}
"""

SCRIPT = """
for (const button of document.querySelectorAll(".command button")) {
  const code = button.parentElement.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    let copied = true;
    try { await navigator.clipboard.writeText(code.textContent); }
    catch {  // a page that lies on disk may not be allowed to: by selection, as of old
      getSelection().selectAllChildren(code);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
let closed = [];
addEventListener("beforeprint", () => {  // paper cannot be unfolded
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const one of closed) one.open = true;
});
addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
"""
"""Without it commands are selected by hand; nothing else needs it."""
