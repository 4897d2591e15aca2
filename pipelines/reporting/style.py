"""The page's look: one column on a phone, light or dark as the reader's system is.

Two colours of curves, blue and orange, which people who confuse red and green tell apart; each has
a darker and a lighter tone, so that it stands out from either background.
"""

CSS = """
:root { color-scheme: light dark;
  --page: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --soft: #59636e; --rule: #d8dde3;
  --s1: #1f6fb2; --s2: #b8560b; --mark: #fff1cc; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171a; --card: #1d2126; --ink: #e7eaee; --soft: #a3adb8; --rule: #363d45;
  --s1: #6cb2f0; --s2: #f0a35c; --mark: #453a17; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
h4 { font-size: .95rem; margin: 0 0 .2rem; }
p { margin: .4rem 0; max-width: 46rem; }
.note, figcaption, .sub { color: var(--soft); font-size: .875rem; }
.bad { color: var(--bad); }
code, .mono { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace;
  font-size: .85em; overflow-wrap: anywhere; }
nav { margin: .8rem 0 0; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .95rem; }
a { color: var(--s1); }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: left; vertical-align: top;
  border-top: 1px solid var(--rule); white-space: nowrap; }
thead th { border-top: 0; color: var(--soft); font-weight: 600; background: var(--card); }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--page); }
.n { text-align: right; }
td.changed { background: var(--mark); }
td.wrap { white-space: normal; min-width: 12rem; overflow-wrap: anywhere; }
.grid-charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; }
.chart { background: var(--card); border-radius: 8px; padding: .8rem .8rem .6rem; }
.chart svg { display: block; width: 100%; height: auto; }
.chart figcaption { font-size: .8rem; }
svg text { fill: var(--soft); font: 11.5px system-ui, -apple-system, "Segoe UI", sans-serif; }
svg .label { fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .line.s1 { stroke: var(--s1); } svg .line.s2 { stroke: var(--s2); }
svg .band.s1, svg .dot.s1, .swatch.s1 { fill: var(--s1); background: var(--s1); }
svg .band.s2, svg .dot.s2, .swatch.s2 { fill: var(--s2); background: var(--s2); }
svg .band { opacity: .22; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: 0 0 .2rem;
  padding: 0; font-size: .85rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .4em; }
.pictures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 29rem), 1fr)); }
.picture { overflow-x: auto; }
.picture.wide { grid-column: 1 / -1; }
.picture.wide img { min-width: 50rem; }
.picture img { display: block; max-width: 100%; min-width: 28rem; height: auto; background: #fff;
  border: 1px solid var(--rule); border-radius: 8px; padding: 6px; }
.lineage { list-style: none; margin: .6rem 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .6rem 2.2rem; }
.lineage li { position: relative; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: .5rem .8rem; font-size: .875rem; }
.lineage li.child::before { content: "\\2192"; position: absolute; left: -1.65rem; top: .5rem;
  color: var(--soft); font-size: 1.1rem; }
.lineage strong { display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .6rem 0;
  font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
details { margin: .7rem 0; } summary { cursor: pointer; color: var(--s1); }
@media (max-width: 34rem) { body { padding: 1rem .8rem 3rem; } dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .35rem; } th, td { padding: .35rem .5rem; }
  .lineage { flex-direction: column; gap: 1.5rem; }
  .lineage li.child::before { content: "\\2193"; left: 1rem; top: -1.5rem; } }
@media print { body { max-width: none; } .chart, .picture { break-inside: avoid; } }
"""
