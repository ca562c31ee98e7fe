"""What a site's operator is told: status, review and the dry run, by the commands that they call."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import manent as mn
from manent.core.errors import InvalidInput
from manent.network.sandbox.child import isolation_here
from manent.network.site.joining import QUICK
from manent.network.site.state import APPROVALS, POLICY, Known, Server, SiteState
from manent.network.site.training import taking_part
from manent.network.trust.identity import Identity
from manent.network.trust.policy import approve
from manent.network.trust.roster import DAY, Entry, SignedRoster
from manent.network.wire.bundle import Bundle
from tests.app.program import manent
from tests.network.test_code_end_to_end import NETWORK, SETTINGS, STUDY

NOW = 1_800_000_000
HEARTS = mn.data.heart_disease()
LOAD = "import manent as mn\n\n\ndef load():\n    return mn.data.heart_disease().clients[0]\n"
LOCAL = mn.LocalSGD(lr=0.1, steps=2, batch_size=20, privacy=mn.DPSGD(clip_norm=1.0, noise_multiplier=2.0, examples=100))


def private(rounds: int = 4) -> mn.Study:
    budget = mn.Budget(4.0, 1e-3, privacy_unit="example", neighboring_relation="add_or_remove")
    algorithm = mn.FedAvg(mn.LogisticModel(13), LOCAL, weighting="equal")
    summation = mn.SecAgg(minimum_cohort=3, dropped=0.2)
    return mn.Study(algorithm, rounds, mn.Cohort(minimum=3), summation=summation, budget=budget, name="hearts \x1b[2J")


def bare(rounds: int = 4) -> mn.Study:
    return replace(private(rounds), algorithm=mn.FedAvg(mn.LogisticModel(13), replace(LOCAL, privacy=None)), budget=None)


class Site:
    """A site that has joined, and knows some studies, without a server."""

    def __init__(self, folder, quick_start=True):
        self.folder, self.server = folder, Identity.create(folder / "server.key", "server")
        self.state = SiteState.create(folder / "site", "site0")
        key = self.server.public_hex
        self.state.put_server(Server("https://fl.example", None, key, key, quick_start))
        entries = (Entry("site0", self.state.identity.public_hex, NOW), *(Entry(f"s{n}", f"{n}" * 64, NOW) for n in (1, 2, 3)))
        signed = SignedRoster.sign(self.server.signing_key, 1, NOW, NOW + 3000 * DAY, entries)
        self.state.take_roster(signed, self.server.signing_key.public, NOW)
        policy = QUICK.format(server=key, allowed='"SecAgg"', data="data").replace('rule = "none"', 'rule = "reviewed"')
        (folder / "site" / POLICY).write_text(policy)
        (folder / "load.py").write_text(LOAD)

    def knows(self, study, code=None, schema=HEARTS.schema):
        bundle = Bundle.of(study, schema, "data", code or {}).sign(self.server.signing_key)
        path = self.state.bundle_path(bundle.study_hash)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bundle.encode())
        self.state.put_study(Known(bundle.study_hash, bundle.hash, False, "code.rule: nobody did.", 1, 0, later=True))
        return bundle

    def command(self, *arguments):
        return manent("site", *arguments, "--folder", self.folder / "site")


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_a_dry_run_says_what_would_be_released_and_under_what(site):
    hash = site.knows(private()).study_hash
    found = site.command("test", hash[:8], "--data", f"{site.folder}/load.py:load")
    assert found.exit_code == 0
    for said in (
        "199 rows to train on, 104 to test on; they are what the schema says",
        "Columns that take part: age, sex,",
        "train: in 4 rounds,",
        "would send update (14 numbers), 77 bytes each time",
        "delta 0.001, for each example",
    ):
        assert said in found.stdout
    assert re.search(r"Under: epsilon ([0-9.]+) against the server, \1 against the clients, \1 against the public;", found.stdout)


def test_a_dry_run_speaks_to_programs_too(site):
    hash = site.knows(bare()).study_hash
    plain = json.loads(site.command("test", hash, "--data", f"{site.folder}/load.py:load", "--json").stdout)
    assert (plain["rows"], plain["dropped"], plain["guarantee"]) == (199, 0, "no differential privacy")


def test_a_dry_run_names_what_is_not_as_the_schema_says(site):
    low = replace(HEARTS.schema.columns[0], high=60.0)
    schema = replace(HEARTS.schema, columns=(low, *HEARTS.schema.columns[1:]))
    found = site.command("test", site.knows(private(), schema=schema).study_hash, "--data", f"{site.folder}/load.py:load")
    assert found.exit_code == 2
    assert "column 'age'" in found.stderr
    assert "above the highest value declared, 60 years" in found.stderr.replace("\n", " ")


@pytest.mark.skipif(not isolation_here().complete, reason=f"this system cannot isolate: {isolation_here()}")
def test_a_dry_run_of_a_studys_own_code_is_shut_in(site, tmp_path, monkeypatch):
    from manent.app.study.file import load_study

    (tmp_path / "beside").mkdir()
    for name, text in (("study.py", STUDY), ("network.py", NETWORK), ("settings.json", SETTINGS)):
        (tmp_path / "beside" / name).write_text(text)
    study = load_study(tmp_path / "beside" / "study.py").study
    bundle = site.knows(study, {"study.py": STUDY, "network.py": NETWORK, "settings.json": SETTINGS})
    found = site.command("test", bundle.study_hash, "--data", f"{site.folder}/load.py:load")
    assert found.exit_code == 0
    assert "train: in 2 rounds" in found.stdout
    assert "evaluate: in 1 rounds" in found.stdout
    assert "Under: no differential privacy" in found.stdout


def test_a_review_says_who_is_trusted_with_who_takes_part(tmp_path):
    for name, quick, said in (("a", True, "what the server says"), ("b", False, "what the consortium says")):
        (tmp_path / name).mkdir()
        site = Site(tmp_path / name, quick)
        found = site.command("review", site.knows(bare()).study_hash)
        assert said in found.stdout
        assert "Not approved here. The site's last answer: waits. code.rule" in found.stdout
        assert "\x1b" not in found.stdout
        assert found.stdout.index("+ study.rounds = 4") < found.stdout.index("+ schema.")


def test_a_review_compares_with_what_was_approved_last(site):
    versions = [site.knows(bare(rounds)) for rounds in (4, 6, 9)]
    for bundle in (versions[1], versions[0]):  # whatever their hashes, in this order
        assert site.command("review", bundle.study_hash, "--approve").exit_code == 0
    found = site.command("review", versions[2].study_hash).stdout
    assert f"since {versions[0].hash[:12]}" in found
    assert [line for line in found.splitlines() if "rounds =" in line] == ["- study.rounds = 4", "+ study.rounds = 9"]
    approve(site.state.folder / APPROVALS, versions[1].hash, "once more")
    assert f"since {versions[1].hash[:12]}" in site.command("review", versions[2].study_hash).stdout


def test_a_status_says_where_the_site_stands_and_drives_no_terminal(site):
    site.knows(bare())
    found = site.command("status").stdout
    assert "signed by the server itself (a quick start)" in found
    assert "this site is on it" in found
    assert "\x1b" not in found
    assert json.loads(site.command("status", "--json").stdout)["member"] is True


def test_what_a_study_does_not_ask_for_stays_out_of_it():
    whole = HEARTS.clients[0]
    schema = replace(HEARTS.schema, columns=HEARTS.schema.columns[:1])
    found = taking_part(whole, schema)
    assert list(found.train.columns) == [schema.columns[0].name]
    with pytest.raises(InvalidInput, match="is declared but absent"):
        taking_part(found, HEARTS.schema)


def test_rows_that_a_schema_lets_drop_are_dropped_as_in_a_simulation():
    age = np.array([50.0, np.nan, 60.0], np.float32)
    data = mn.Examples(np.zeros((3, 2), np.float32), np.array([0, 1, 1]), {"age": age})
    schema = mn.Schema(shape=(2,), classes=2, columns=(mn.Column("age", "years", 0, 120, missing="drop"),))
    client = mn.Client("a", data)
    assert len(taking_part(client, schema).train) == len(mn.Federation((client,), schema).clients[0].train) == 2
