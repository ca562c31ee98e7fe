"""The hospitals' report: one self-contained HTML file, for a physician to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from manent.app.demo import pictures
from manent.app.demo.findings import Difference, Findings, Numbers
from manent.app.demo.ways import ALONE, FEDERATED, MAIN, ONE_SCALE, POOLED, ROUNDS
from manent.app.demo.words import correctness, exceptions, headline
from manent.core.errors import MissingExtra
from manent.engines.folder import environment
from manent.engines.plots import plot_runs, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn = Mapping[str, str]
"""Inline SVG by name; empty without matplotlib."""

STYLE = """
:root { --ink: #22313f; --quiet: #5d6b78; --line: #dfe5ea; --soft: #f3f6f8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.5rem 5rem; color: var(--ink); background: #fff;
       font: 17px/1.6 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; }
p, li { max-width: 46rem; }
.lead { font-size: 1.15rem; color: var(--quiet); margin-top: 0; }
.result { background: var(--soft); border-left: 5px solid var(--accent); border-radius: 0 6px 6px 0; padding: 1rem 1.4rem;
          margin: 1.8rem 0; }
.result p { margin: .5rem 0; max-width: none; }
.result p:first-child { font-size: 1.12rem; font-weight: 600; }
figure { margin: 1.4rem 0; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--quiet); font-size: .92rem; max-width: 46rem; margin-top: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .45rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { white-space: normal; vertical-align: bottom; }
td { vertical-align: top; }
td small { display: block; font-size: .9em; font-weight: 400; color: var(--quiet); line-height: 1.3; }
thead th { border-bottom: 2px solid var(--ink); }
td.best { font-weight: 700; }
.gained { color: #00704f; }
.lost { color: #b34400; }
.quiet { color: var(--quiet); }
tr.part td { border: 0; padding-top: 1rem; font-weight: 700; }
pre { background: var(--soft); padding: 1rem; overflow-x: auto; font-size: .82rem; line-height: 1.45; border-radius: 6px; }
footer { margin-top: 3.5rem; border-top: 1px solid var(--line); padding-top: 1rem; color: var(--quiet); font-size: .9rem; }
@media print { body { font-size: 11pt; padding: 0; } figure, table, .result { break-inside: avoid; } }
"""


def write_report(findings: Findings, folder: Path, seconds: float) -> Path:
    """Write report.html, and with matplotlib installed the plots as PNG under plots/. Returns the report's path.

    Args:
        seconds: how long everything took; the footer says so.
    """
    path = folder / "report.html"
    path.write_text(page(findings, _pictures(findings, folder), seconds), encoding="utf-8")
    return path


def _pictures(findings: Findings, folder: Path) -> dict[str, str]:
    """The pictures as inline SVG, by name; none without matplotlib."""
    makers: dict[str, Callable[[], Figure]] = {
        "centres": lambda: findings.data.describe().plot(),
        "side_by_side": lambda: pictures.side_by_side(findings),
        "travels": lambda: pictures.travels(findings),
        "training": lambda: plot_runs(
            {name: (run.history, run.probe) for name, run in findings.runs.items()},
            metrics=("auc", "accuracy", "loss") if findings.once else ("auc", "loss"),
        ),
    }
    if not _curved(findings):
        del makers["training"]
    drawn = {}
    try:
        for name, make in makers.items():
            figure = make()
            save(figure, folder / "plots" / f"{name}.png")
            drawn[name] = _inline(figure)
    except (ImportError, MissingExtra):
        return {}
    return drawn


def _curved(findings: Findings) -> bool:
    """Whether anything was measured on the way. With noise for each patient, only the model is released."""
    return any(run.probe or "loss" in row for run in findings.runs.values() for row in run.history)


def _inline(figure: Figure) -> str:
    text = StringIO()
    figure.savefig(text, format="svg")
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def page(findings: Findings, drawn: Drawn, seconds: float) -> str:
    """The whole HTML page."""
    sections = [
        _opening(findings),
        _centres(findings, drawn),
        _compared(findings),
        _results(findings, drawn),
        _travelling(findings, drawn),
        _training(findings, drawn),
        _seen(findings),
        _limits(findings),
        _footer(findings, seconds),
    ]
    title = "Can four hospitals learn together without sharing patients?"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{"".join(sections)}
</body>
</html>
"""


def _figure(drawn: Drawn, name: str, caption: str) -> str:
    if name not in drawn:
        return '<p class="quiet">(There is a plot here if matplotlib is installed: pip install "manent[plots]".)</p>'
    return f"<figure>{drawn[name]}<figcaption>{caption}</figcaption></figure>"


def _opening(findings: Findings) -> str:
    patients = sum(len(c.train) + (0 if c.test is None else len(c.test)) for c in findings.data)
    return f"""
<p class="lead">Coronary disease in {patients} patients of {len(findings.centres)} centres, from
{len(findings.data.schema.features)} routine measurements: is a model that the centres train together, each keeping its
patients' rows, better than the one that each could train alone?</p>
<div class="result">
<p>{escape(headline(findings))}</p>
<p>{escape(exceptions(findings))}</p>
<p>{escape(correctness(findings))}</p>
<p class="quiet">Computed from this run. Beyond chance: the 95 % interval over the test patients does not contain zero.</p>
</div>"""


def _centres(findings: Findings, drawn: Drawn) -> str:
    one_sided = [
        f"Of {centre.name}'s {len(centre.train)} training patients {'every one' if share == 1 else 'none'} is ill: "
        f"alone, it has nothing to tell apart."
        for centre in findings.data
        if (share := float(centre.train.y.mean())) in (0, 1)
    ]
    caption = """Left: patients for training and for testing. Right: who is ill. Base rates differ so much that accuracy must
    be read beside them."""
    return f"""
<h2>The centres</h2>
<p>They differ in size and, above all, in who is sent to them. {" ".join(one_sided)}</p>
{_figure(drawn, "centres", caption)}"""


def _compared(findings: Findings) -> str:
    times = (
        f"""Alone and in one place, it was trained {len(findings.seeds)} times from different starts; together once, by a
server and {len(findings.centres)} processes, one a centre."""
        if findings.once
        else f"""Everything was trained {len(findings.seeds)}
times from different starts."""
    )
    return f"""
<h2>What was compared</h2>
<ul>
<li><b>Alone</b>: each centre trains on its own patients.</li>
<li><b>All data in one place</b>: what would be possible if the patients' rows were put together. Here for comparison only.</li>
<li><b>Together</b>: in {findings.statement.rounds} rounds, each centre improves the shared model on its own patients and sends
the change, not the patients. FedAvg averages the changes; FedAdam applies the average with a step that adapts.</li>
</ul>
<p>The model is logistic regression throughout, on features that each centre puts on its own scale. {times} It was tested
on patients that no training saw.</p>
<p><b>AUC</b> is the chance that an ill patient is scored above a healthy one: 0.5 is a coin, 1 is perfect, whatever the base
rate. <b>Accuracy</b> is the share of right answers; giving everyone the commoner diagnosis already reaches the base rate.</p>"""


def _results(findings: Findings, drawn: Drawn) -> str:
    caption = """A dot for each training, a bar at the mean. Dashed: what needs no model, a coin or the commoner diagnosis for
    everyone."""
    return f"""
<h2>The result</h2>
{_figure(drawn, "side_by_side", caption)}
{_table(findings)}
<p class="quiet">Last column: the difference, and its 95 % interval over the centre's test patients (bootstrap). Bold: the best
of a row, by its mean alone.</p>"""


def _table(findings: Findings) -> str:
    heads = ["centre", "ill / patients", "base rate", "alone", "one place", *FEDERATED, f"{MAIN} − alone"]
    lines = []
    for metric, name in (("auc", "AUC"), ("accuracy", "Accuracy")):
        lines.append(f'<tr class="part"><td colspan="{len(heads)}">{name}, mean ± sd over trainings</td></tr>')
        lines += [_row(findings, metric, centre) for centre in findings.centres]
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _row(findings: Findings, metric: str, centre: str) -> str:
    y = findings.labels[centre]
    values = [findings.metric(metric, way, centre) for way in (ALONE, POOLED, *FEDERATED)]
    best = max(f"{v.mean():.3f}" for v in values)
    cells = "".join(
        f'<td class="{"best" if f"{v.mean():.3f}" == best else ""}">{v.mean():.3f}<small>{_spread(v)}</small></td>'
        for v in values
    )
    rate = f"{findings.commonest(centre):.3f}" if metric == "accuracy" else ""
    difference = _difference(findings.difference(metric, ALONE, MAIN, centre))
    return f"<tr><td>{escape(centre)}</td><td>{int(y.sum())} / {len(y)}</td><td>{rate}</td>{cells}{difference}</tr>"


def _spread(values: Numbers) -> str:
    return f"± {values.std():.3f}" if len(values) > 1 else "once"


def _difference(found: Difference) -> str:
    if not found.judged:
        return '<td class="quiet">too few patients</td>'
    interval = f"{found.second - found.first:+.3f}<small>{found.low:+.3f} to {found.high:+.3f}</small>".replace("-", "−")
    return f'<td class="{"quiet" if found.verdict == "unclear" else found.verdict}">{interval}</td>'


def _travelling(findings: Findings, drawn: Drawn) -> str:
    judged = [c for c in findings.centres if findings.difference("auc", ALONE, MAIN, c).judged]
    away = {
        home: [float(findings.metric("auc", f"only {home}", c).mean()) for c in judged if c != home] for home in findings.centres
    }
    everywhere = [value for values in away.values() for value in values]
    shared = [float(findings.metric("auc", MAIN, c).mean()) for c in judged]
    worst = min(away, key=lambda home: sum(away[home]) / len(away[home]))
    y = findings.data.client(worst).train.y
    few = [c for c in findings.centres if c not in judged]
    star = f" * Too few patients of one kind to be judged; left out of the sentence above: {', '.join(few)}." if few else ""
    caption = f"AUC, mean over trainings. A row is where a model was trained, a column where it was tried; framed: at home.{star}"
    return f"""
<h2>Does a model travel?</h2>
<p>Tried at another centre, a model trained at one has an AUC from {min(everywhere):.2f} to {max(everywhere):.2f}; the shared
model ({MAIN}) has {min(shared):.2f} to {max(shared):.2f}. The least useful elsewhere is the one from {escape(worst)}, trained on
{len(y)} patients, {int(y.sum())} of them ill: {min(away[worst]):.2f} to {max(away[worst]):.2f} elsewhere.</p>
{_figure(drawn, "travels", caption)}"""


def _training(findings: Findings, drawn: Drawn) -> str:
    sent = [
        f"{name} {sum(row['bytes_up'] + row['bytes_down'] for row in run.history):,} bytes" for name, run in findings.runs.items()
    ]
    shown = (
        "over all test patients, as the server learned it by secure aggregation: no centre's own numbers"
        if findings.once
        else "mean over the centres' test parts, and the spread between centres"
    )
    what = "Models and vectors sent, without the messages that protect them" if findings.once else "Sent by all"
    caption = f"One training of each: {shown}. {what}, both ways, in all rounds: {', '.join(sent)}."
    if not _curved(findings):
        drawing = f"<p>Nothing was measured on the way, as each measurement would cost privacy. {what}: {', '.join(sent)}.</p>"
    else:
        drawing = _figure(drawn, "training", caption)
    return f"""
<h2>How it went</h2>
{drawing}"""


def _seen(findings: Findings) -> str:
    statement = findings.statement
    server = next(observer for observer in statement.observers if observer.name == "server")
    if findings.once:
        seen = f"""In each of {statement.rounds} rounds the server, a process of its own, saw <b>{escape(server.sees)}</b>, by
secure aggregation ({escape(statement.summation)}): not what one centre sent. With four centres that hides little: three of them
and the server together can work out what the fourth sent."""
    else:
        seen = f"""In each of {statement.rounds} rounds the server saw <b>each centre's own
{statement.sums[0].size} numbers</b>, the change that its patients made to the model, and who sent it. This is not anonymity: from
such changes, facts about patients can often be worked out. Nothing here hides one centre's numbers from the server (secure
aggregation would)."""
    bound = (
        "Nothing bounds what the finished model gives away about one patient (differential privacy would)."
        if server.epsilon is None
        else f"""What the model, and all that was seen on the way to it, give away about one patient is bounded: epsilon
{server.epsilon:.3g}, delta {server.delta:g}, for each of the {len(findings.runs)} models that were trained together."""
    )
    where = "All ran on one machine; this run shows how it is done, and no more." if findings.once else ""
    return f"""
<h2>Who saw what</h2>
<p>No patient's row left its centre. {seen} {bound} {where or "So this run shows learning without pooling, and no more."}</p>
<details><summary>The statement of the study, in full</summary><pre>{escape(str(statement))}</pre></details>"""


def _limits(findings: Findings) -> str:
    pooled, scaled, shared = (float(findings.overall(way).mean()) for way in (POOLED, ONE_SCALE, MAIN))
    smallest = min(findings.centres, key=lambda c: len(findings.labels[c]))
    return f"""
<h2>Limits</h2>
<ul>
<li>The test parts are small ({smallest}: {len(findings.labels[smallest])} patients). The intervals say how much chance that
leaves.</li>
<li>The patients were seen in the 1980s, all of them referred for angiography; nothing here is fit for use in care.</li>
<li>Cholesterol is recorded as 0 where it was not measured: for all of Switzerland, and for many at VA Long Beach.</li>
<li>Each centre scales features by its own patients, which hides how ill its population is. With all data in one place
<i>and on one scale</i>, accuracy over all test patients is {scaled:.0%} instead of {pooled:.0%} ({MAIN}: {shared:.0%}); a part
of the difference may be the missing cholesterol, which gives the centre away.</li>
<li>{_recipe(findings)}</li>
</ul>"""


def _recipe(findings: Findings) -> str:
    if findings.statement.protection is not None:
        return """Alone and in one place, the recipe (steps, rounds, learning rates) is the published one, which its authors chose
on these data. Together, there is noise on every step, and steps are fewer and larger."""
    return """The recipe (steps, rounds, learning rates) is the published one, which its authors chose on these data; nothing was
tuned here."""


def _options(findings: Findings) -> str:
    if not findings.once:
        return " --simulate"
    rounds = findings.statement.rounds
    private = " --private" if findings.statement.protection is not None else ""
    return private + (f" --rounds {rounds}" if rounds != ROUNDS else "")


def _footer(findings: Findings, seconds: float) -> str:
    facts = environment("")
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if name in ("manent", "numpy"))
    return f"""
<footer>
<p>Data: Janosi, Steinbrunn, Pfisterer and Detrano (1989), Heart Disease, UCI Machine Learning Repository,
doi:10.24432/C52P4X, CC BY 4.0; prepared as Fed-Heart-Disease in FLamby (du Terrail et al. 2022), whose recipe is followed.</p>
<p>Made by <code>manent demo hospitals{_options(findings)} --seeds {len(findings.seeds)}</code> in {seconds:.0f} s
(seeds {findings.seeds[0]} to {findings.seeds[-1]}; Python {facts["python"]}, {versions}). All numbers: results.json.</p>
</footer>"""
