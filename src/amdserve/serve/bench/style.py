"""How the report looks."""

STYLE = """
:root { --paper: #fcfcfb; --card: #ffffff; --ink: #1c1d21; --soft: #5d6068; --line: #e3e4e8;
  --grid: #ecedf0; --b0: #2f6fde; --b1: #d9542b; --b2: #6f7785; --b3: #8a63c9; --bad: #b3261e;
  --badback: #fdf0ee; }
@media (prefers-color-scheme: dark) { :root { --paper: #15161a; --card: #1c1e23; --ink: #e9eaee;
  --soft: #a2a6b0; --line: #31343c; --grid: #282b32; --b0: #6d9ff5; --b1: #f0835c; --b2: #9098a6;
  --b3: #b497ea; --bad: #ff9d93; --badback: #2b1d1d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 0 0 10px; }
h3 { font-size: 15px; margin: 0; }
.kicker { margin: 0 0 4px; color: var(--soft); font-size: 13px;
  letter-spacing: .06em; text-transform: uppercase; }
.lead { font-size: 18px; margin: 8px 0 0; color: var(--soft); }
.lead b { color: var(--ink); }
.warn { color: var(--bad); margin: 12px 0 0; }
section { margin-top: 36px; }
.note, footer { color: var(--soft); font-size: 13.5px; }
.note { margin: 8px 0 0; }
h2 + .note { margin: -4px 0 12px; }
footer { margin-top: 44px; border-top: 1px solid var(--line); padding-top: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 12.5px; padding: 6px 12px 6px 0;
  border-bottom: 1px solid var(--line); vertical-align: bottom; }
td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th.n, td.n { text-align: right; }
.n + :is(th, td):not(.n) { padding-left: 10px; }
.verdict tr:first-child td { font-weight: 600; }
.verdict td:first-child { color: var(--soft); width: 1%; }
.meter { display: block; height: 3px; background: var(--grid); border-radius: 2px; margin-top: 3px;
  min-width: 90px; }
.meter span { display: block; height: 3px; border-radius: 2px; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 5px 22px; margin: 0; font-size: 14px; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
svg { display: block; width: 100%; min-width: 620px; height: auto; font-size: 12.5px; }
svg text { fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .group { font-weight: 600; font-size: 13px; }
svg .name { text-anchor: end; fill: var(--soft); }
svg .tick { text-anchor: middle; fill: var(--soft); font-size: 11.5px; }
svg .unit, svg .missing { fill: var(--soft); }
svg .missing { font-style: italic; }
svg .unit { font-size: 11.5px; }
svg .grid { stroke: var(--grid); }
svg .spread { stroke: var(--ink); stroke-width: 1.2; fill: none; opacity: .65; }
svg .b0 { fill: var(--b0); } svg .b1 { fill: var(--b1); }
svg .b2 { fill: var(--b2); } svg .b3 { fill: var(--b3); }
.dot.b0, .meter .b0 { background: var(--b0); } .dot.b1, .meter .b1 { background: var(--b1); }
.dot.b2, .meter .b2 { background: var(--b2); } .dot.b3, .meter .b3 { background: var(--b3); }
.failure { background: var(--badback); border-left: 3px solid var(--bad); border-radius: 4px;
  padding: 12px 16px; margin-top: 12px; }
.failure p { margin: 4px 0 0; }
.class { color: var(--bad); font-weight: 500; font-size: 13.5px; margin-left: 6px; }
pre { margin: 10px 0 0; font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; overflow-x: auto; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
details { margin-top: 8px; font-size: 13.5px; color: var(--soft); }
summary { cursor: pointer; }
ul { margin: 6px 0 0; padding-left: 20px; }
@media print { body { background: none; } main { padding: 0; } section { break-inside: avoid; } }
"""
