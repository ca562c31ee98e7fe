"""A study whose model is code of its own, which each hospital shuts in: processes give what a simulation gives."""

from __future__ import annotations

import numpy as np
import pytest

from manent.app.study.file import load_study
from manent.core.examples import Schema
from manent.network.sandbox.child import isolation_here
from manent.network.site.joining import QUICK
from manent.network.trust.identity import Identity
from manent.network.wire.bundle import Bundle
from tests.network.processes import Federation, until
from tests.network.test_end_to_end import check_equal, check_receipts

NETWORK = """
import json
from pathlib import Path

import manent as mn
from manent.core.canonical import to_plain

SETTINGS = json.loads((Path(__file__).parent / "settings.json").read_text())


class Net:
    kind, classes = "binary", 2

    def __init__(self):
        self.inner = mn.LogisticModel(SETTINGS["features"])
        self.layout = self.inner.layout

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def to_plain(self):
        return {"kind": self.kind, "classes": 2, "layout": to_plain(self.layout)}
"""
STUDY = """
import manent as mn
from network import Net


data = mn.data.heart_disease()
study = mn.Study(
    mn.SCAFFOLD(Net(), mn.LocalSGD(lr=0.01, steps=5, batch_size=4), evaluation=mn.Evaluation(every=2)),
    rounds=2,
    cohort=mn.Cohort(minimum=4),
    summation=mn.SecAgg(minimum_cohort=3, dropped=0.2),
    name="hospitals",
)
"""

SETTINGS = '{"features": 13}\n'


@pytest.mark.slow
@pytest.mark.skipif(not isolation_here().complete, reason=f"this system cannot isolate: {isolation_here()}")
def test_code_of_a_studys_own_runs_at_every_site(tmp_path):
    with Federation(tmp_path) as federation:
        federation.study.write_text(STUDY)
        (tmp_path / "network.py").write_text(NETWORK)
        (tmp_path / "settings.json").write_text(SETTINGS)
        federation.serve("--code", tmp_path / "settings.json")
        assert federation.tokens
        code = {"study.py": STUDY, "network.py": NETWORK, "settings.json": SETTINGS}
        hash = Bundle.of(load_study(federation.study).study, Schema(), "data", code).code_hash
        until(lambda: hash in (tmp_path / "server.log").read_text(), 30, federation.logs)
        server = Identity.load(tmp_path / "srv" / "identity.key").public_hex
        policy = QUICK.format(server=server, allowed='"SecAgg"', data="data")
        policy = policy.replace('rule = "none"', f'rule = "listed"\nhashes = ["{hash}"]')
        for index in range(federation.sites):
            (tmp_path / f"site{index}").mkdir()
            (tmp_path / f"site{index}" / "policy.toml").write_text(policy)
            federation.join(index)
        found = federation.result(120)
        assert np.isfinite(found["model"]).all()
        check_equal(federation, found)
        check_receipts(federation, 3)
        logs = [(tmp_path / f"site{index}.log").read_text() for index in range(federation.sites)]
        assert all("shut in, by" in text for text in logs), federation.logs()
