"""The demonstration: that what it says follows from its numbers, and that the report holds together."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from manent.app.demo.findings import Findings
from manent.app.demo.hospitals import demonstrate
from manent.app.demo.learning import find
from manent.app.demo.report import page
from manent.app.demo.ways import ALONE, MAIN, POOLED
from manent.app.demo.words import correctness, exceptions, headline, listed
from tests.app.program import manent


@pytest.fixture(scope="module")
def findings() -> Findings:
    return find((42, 43), None, Console(quiet=True))


def with_scores(findings: Findings, way: str, quality: dict[str, float]) -> Findings:
    """The findings if a way told ill from healthy this well (1 perfectly, -1 perversely) at some centres."""
    rng = np.random.default_rng(0)
    scores = dict(findings.scores)
    for centre, good in quality.items():
        y = findings.labels[centre]
        signal = good * (2.0 * y - 1) + (1 - abs(good)) * rng.normal(size=len(y))
        scores[findings.way(way, centre), centre] = np.stack([signal] * len(findings.seeds))
    return replace(findings, scores=scores)


def test_metrics_are_those_of_the_scores(findings: Findings) -> None:
    better = with_scores(findings, MAIN, {"Cleveland": 1.0, "Hungary": -1.0})
    assert better.metric("auc", MAIN, "Cleveland").tolist() == [1.0, 1.0]
    assert better.metric("accuracy", MAIN, "Hungary").tolist() == [0.0, 0.0]
    assert findings.commonest("Switzerland") == 15 / 16
    own = np.concatenate([(findings.scores[f"only {c}", c][0] > 0) == y for c, y in findings.labels.items()])
    assert findings.overall(ALONE)[0] == pytest.approx(own.mean())


def test_differences_are_bracketed_and_judged(findings: Findings) -> None:
    changed = with_scores(
        with_scores(findings, ALONE, {"Cleveland": 0.0, "Hungary": 1.0}), MAIN, {"Cleveland": 1.0, "Hungary": 0.0}
    )
    assert changed.difference("auc", ALONE, MAIN, "Cleveland").verdict == "gained"
    assert changed.difference("accuracy", ALONE, MAIN, "Hungary").verdict == "lost"
    assert changed.difference("auc", ALONE, MAIN, "Switzerland").verdict == "not judged"
    same = with_scores(with_scores(findings, ALONE, {"Cleveland": 0.5}), MAIN, {"Cleveland": 0.5})
    equal = same.difference("auc", ALONE, MAIN, "Cleveland")
    assert (equal.low, equal.high, equal.verdict) == (0.0, 0.0, "unclear")
    for centre in ("Cleveland", "Hungary", "VA Long Beach"):
        found = findings.difference("auc", ALONE, MAIN, centre)
        assert found.low <= found.second - found.first <= found.high


def test_the_headline_follows_the_numbers(findings: Findings) -> None:
    worse = with_scores(findings, MAIN, dict.fromkeys(findings.centres, -1.0))
    assert "worse at" in headline(worse)
    assert "better" not in headline(worse)
    best = with_scores(
        with_scores(findings, ALONE, dict.fromkeys(findings.centres, 0.0)), MAIN, dict.fromkeys(findings.centres, 1.0)
    )
    assert "better at" in headline(best)
    assert "worse" not in headline(best)
    assert "chance" not in headline(best)  # each difference is beyond it
    assert "Switzerland cannot be judged: 1 healthy among its 16" in exceptions(best)
    assert "rose at" in correctness(best)
    assert "neither beats" not in correctness(best)
    fell = with_scores(best, MAIN, {"VA Long Beach": -1.0})
    assert "fell at VA Long Beach" in correctness(fell)


def test_pooled_and_federated_reach_the_published_range(findings: Findings) -> None:
    # Fed-Heart-Disease's own table: Cleveland .783 pooled, .752 with FedAdam; Hungary .764 and .746.
    assert findings.metric("accuracy", POOLED, "Cleveland").mean() == pytest.approx(0.77, abs=0.05)
    assert findings.metric("accuracy", MAIN, "Hungary").mean() == pytest.approx(0.746, abs=0.05)


class _Balanced(HTMLParser):
    """Fails on a tag that is closed out of order, and gathers text and what is fetched from elsewhere."""

    VOID = ("meta", "br", "img", "path", "use", "rect", "circle", "line", "polygon", "image")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href") and tag in ("script", "link", "img")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_whole_and_self_contained(tmp_path: Path) -> None:
    report = demonstrate(tmp_path / "demo", 2, Console(quiet=True), simulated=True)
    parser = _Balanced()
    parser.feed(report.read_text())
    assert parser.open == []
    assert parser.fetched == []
    assert report.read_text().count("<svg") == 4
    numbers = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert numbers["test_patients"]["Switzerland"] == {"all": 16, "ill": 15}
    mean = float(np.mean(numbers["metrics"]["auc"][MAIN]["Cleveland"]))
    assert f"{mean:.3f}" in parser.text
    for part in (
        "Who saw what",
        "differential privacy",
        "Limits",
        "CC BY 4.0",
        "Of Switzerland's 30 training patients every one is ill",
    ):
        assert part in re.sub(r"\s+", " ", parser.text)
    assert manent("plot", tmp_path / "demo" / "fedavg", tmp_path / "demo" / "fedadam", "-o", tmp_path / "both.png").exit_code == 0


def test_the_report_reads_without_plots(findings: Findings) -> None:
    text = page(findings, {}, 1.0)
    assert "<svg" not in text
    assert "pip install" in text
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_the_demo_command_prints_the_table_and_where_the_report_is(tmp_path: Path) -> None:
    result = manent("demo", "hospitals", "--simulate", "--folder", tmp_path / "demo", "--seeds", 2)
    assert result.exit_code == 0
    assert re.search(r"Switzerland +15/16", result.stdout)
    assert "report.html" in result.stdout.replace("\n", "")
    assert manent("demo", "hospitals", "--simulate", "--folder", tmp_path / "demo", "--seeds", 2).exit_code == 2
