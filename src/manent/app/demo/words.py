"""What was found, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from manent.app.demo.findings import Findings, Labels
from manent.app.demo.ways import ALONE, FEDERATED, MAIN, POOLED


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence: "a, b and c"; empty for none."""
    return " and ".join(([", ".join(names[:-1])] if len(names) > 1 else []) + list(names[-1:]))


def headline(findings: Findings, way: str = MAIN) -> str:
    """Where learning together told ill from healthy better, or worse, than learning alone, and how sure that is."""
    found = {c: findings.difference("auc", ALONE, way, c) for c in findings.centres}
    judged = {c: d for c, d in sorted(found.items(), key=lambda item: -abs(item[1].second - item[1].first)) if d.judged}
    better = [f"{c} (AUC {d.first:.2f} to {d.second:.2f})" for c, d in judged.items() if round(d.second, 2) > round(d.first, 2)]
    worse = [f"{c} (AUC {d.first:.2f} to {d.second:.2f})" for c, d in judged.items() if round(d.second, 2) < round(d.first, 2)]
    parts = [f"{word} at {listed(which)}" for word, which in (("better", better), ("worse", worse)) if which]
    text = f"Trained together ({way}), the model told ill from healthy "
    text += f"{' and '.join(parts)} than the centre's own." if parts else "as well as each centre's own."
    clear = [c for c, d in judged.items() if d.verdict in ("gained", "lost")]
    if parts and not clear:
        text += " With so few test patients, none of this is beyond chance."
    elif parts and len(clear) < len(better) + len(worse):
        text += f" Beyond chance: {listed(clear)} only."
    return text


def exceptions(findings: Findings, way: str = MAIN) -> str:
    """Which other way of learning together did worse than alone, and which centre cannot be judged; empty for neither."""
    parts = []
    for other in FEDERATED:
        lost = [c for c in findings.centres if findings.difference("auc", ALONE, other, c).verdict == "lost"]
        if other != way and lost:
            numbers = [findings.difference("auc", ALONE, other, c) for c in lost]
            pairs = listed([f"{c} ({d.first:.2f} to {d.second:.2f})" for c, d in zip(lost, numbers, strict=True)])
            parts.append(f"{other} was worse than alone, beyond chance, at {pairs}.")
    for centre in findings.centres:
        if not findings.difference("auc", ALONE, way, centre).judged:
            y = findings.labels[centre]
            parts.append(f"{centre} cannot be judged: {_rarer(y)} among its {len(y)} test patients.")
    return " ".join(parts)


def _rarer(y: Labels) -> str:
    """How many test patients are of the rarer kind."""
    ill, healthy = int(y.sum()), int((1 - y).sum())
    return f"{ill} ill" if ill < healthy else f"{healthy} healthy"


def correctness(findings: Findings, way: str = MAIN) -> str:
    """How the share of right answers changed, and where no model beats the base rate."""
    found = {c: findings.difference("accuracy", ALONE, way, c) for c in findings.centres}
    changed = {
        verdict: listed([f"{c} ({d.first:.0%} to {d.second:.0%})" for c, d in found.items() if d.verdict == verdict])
        for verdict in ("gained", "lost")
    }
    parts = [f"{word} at {changed[verdict]}" for verdict, word in (("gained", "rose"), ("lost", "fell")) if changed[verdict]]
    overall = [float(findings.overall(name).mean()) for name in (ALONE, way, POOLED)]
    change = " and ".join(parts) or "did not clearly change at any centre"
    text = (
        f"The share of right answers {change}; over all test patients it was {overall[0]:.0%} with each centre's own model, "
        f"{overall[1]:.0%} together, {overall[2]:.0%} with all data in one place."
    )
    below = [c for c, d in found.items() if max(d.first, d.second) < findings.commonest(c)]
    if below:
        rates = listed([f"{findings.commonest(c):.0%}" for c in below])
        text += f" At {listed(below)} neither beats giving every patient the commoner diagnosis ({rates})."
    return text
