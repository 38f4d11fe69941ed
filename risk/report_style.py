"""How the report looks and moves: its style, its script and the frame of the page."""

STYLE = """
:root { --ink: #1b2430; --dim: #66707f; --line: #e3e7ec; --ground: #f5f6f8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 16px; color: var(--ink); background: var(--ground);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 10px; }
h2 small, header p, .tile span, .tile small, .bar small { color: var(--dim); font-weight: normal; }
h2 small { font-size: 0.8rem; margin-left: 6px; }
header p { margin: 2px 0 0; font-size: 0.9rem; }
.banner { background: #ffe9b8; border: 1px solid #e0b040; border-radius: 8px; padding: 8px 12px;
  margin-bottom: 12px; font-weight: 600; }
section { min-width: 0; background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 14px;
  margin-top: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 10px; padding: 0;
  background: none; border: 0; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 10px 12px; }
.tile span, .tile b, .tile small { display: block; }
.tile b { font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tile span, .tile small { font-size: 0.8rem; }
.sum { color: var(--dim); font-size: 0.85rem; margin: 10px 2px 0; display: flex; flex-wrap: wrap;
  gap: 2px 10px; }
.sum b { color: var(--ink); font-variant-numeric: tabular-nums; }
.up { color: #1a7f4b; } .down { color: #c0392b; }
.chart { width: 100%; min-width: 0; }
h3 { font-size: 0.92rem; margin: 14px 0 6px; color: var(--dim); font-weight: 600; }
h2 + .scroll + h3, h2 + h3 { margin-top: 0; }
.none, .under { color: var(--dim); font-size: 0.88rem; margin: 6px 0 0; }
.key { display: inline-block; margin-right: 14px; font-size: 0.85rem; color: var(--dim); }
.key i { display: inline-block; width: 14px; height: 3px; margin-right: 5px; vertical-align: middle; }
.when { white-space: nowrap; }
.year p { margin: 8px 0 4px; }
.months { display: grid; grid-template-columns: repeat(12, 1fr); gap: 4px; }
.months div { background: #f3f5f8; border-radius: 5px; padding: 4px 2px; text-align: center; min-width: 0; }
.months small { display: block; color: var(--dim); font-size: 0.72rem; }
.months span { font-size: 0.8rem; font-variant-numeric: tabular-nums; }
.bar { display: grid; grid-template-columns: 128px 1fr 92px; gap: 0 10px; align-items: center;
  margin: 5px 0; }
.bar div { background: #eef1f5; border-radius: 4px; }
.bar i { display: block; height: 16px; border-radius: 4px; }
.bar b { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; }
.bar small { grid-column: 2 / 4; font-size: 0.8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--dim); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:last-child td { border-bottom: 0; }
table.facts td { white-space: normal; overflow-wrap: anywhere; }
table.facts td:first-child { overflow-wrap: normal; min-width: 9em; vertical-align: top; }
table.numbers td:first-child { white-space: normal; }
pre { overflow-x: auto; font-size: 0.8rem; }
summary { cursor: pointer; }
@media (max-width: 520px) {
  body { padding: 10px; font-size: 14px; }
  section { padding: 10px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .months { grid-template-columns: repeat(4, 1fr); }
  table { font-size: 0.8rem; }
  th, td { padding: 5px 3px; white-space: normal; }
  table.tight { font-size: 0.7rem; }
  table.first4 :is(th, td):nth-child(n + 5), table.first5 :is(th, td):nth-child(n + 6) { display: none; }
  .bar { grid-template-columns: 96px 1fr 76px; }
  .bar small { grid-column: 1 / 4; }
}
"""

SCRIPT = """
const narrow = matchMedia("(max-width: 520px)").matches;
const touch = matchMedia("(pointer: coarse)").matches;
const axis = { gridcolor: "#e9ecf0", zerolinecolor: "#b8c0ca", automargin: true };
for (const [name, figure] of Object.entries(figures)) {
  const layout = Object.assign({ margin: { l: 48, r: 12, t: 6, b: 36 }, showlegend: false, autosize: true,
    paper_bgcolor: "#fff", plot_bgcolor: "#fff", dragmode: touch ? false : "zoom",
    font: { family: "system-ui, sans-serif", size: narrow ? 11 : 12, color: "#1b2430" } }, figure.layout);
  for (const key of ["xaxis", "yaxis", "yaxis2"]) {
    if (layout[key] || key !== "yaxis2") { layout[key] = Object.assign({}, axis, layout[key]); }
  }
  if (narrow) { for (const key of ["yaxis", "yaxis2"]) { if (layout[key]) { delete layout[key].title; } } }
  Plotly.newPlot(name, figure.data, layout, { responsive: true, displayModeBar: false });
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
{plotly}
</head>
<body>
{body}
<p class="sum">Times in the charts and tables are New York's.</p>
<script>const figures = {figures};
{script}</script>
</body>
</html>
"""
