"""Commands about differential privacy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manent.app.study.launch import Launch, Silent, begin
from tests.app.program import STUDY, manent, write

CASE = ("--sampling-probability", "0.01", "--rounds", "10000", "--delta", "1e-5")
PRIVATE = STUDY.replace(
    "study = mn.Study(mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=5, batch_size=8)), ",
    "study = mn.Study(mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=5, batch_size=8), weighting='equal'), "
    "layers=[mn.Clip(1.0), mn.CentralNoise(1.0)], ",
)


def test_epsilon_prints_the_figure_the_accountant_and_what_it_assumes():
    text = manent("epsilon", "--noise-multiplier", "1.0", *CASE).stdout
    assert "epsilon 6.188 at delta 1e-05" in text
    assert "privacy loss distribution" in text
    assert "Poisson" in text
    found = json.loads(manent("epsilon", "--noise-multiplier", "1.0", *CASE, "--accountant", "rdp", "--json").stdout)
    assert found["epsilon"] == pytest.approx(6.7128, abs=0.001)


def test_noise_is_the_inverse():
    found = json.loads(manent("noise", "--epsilon", "1", "--rounds", "1", "--delta", "1e-5", "--json").stdout)
    assert found["noise_multiplier"] == pytest.approx(3.7306, rel=2e-4)
    assert found["epsilon"] <= 1
    assert "noise multiplier 3.73" in manent("noise", "--epsilon", "1", "--rounds", "1", "--delta", "1e-5").stdout


def test_the_trade_off_is_drawn(tmp_path):
    path = tmp_path / "curve.png"
    result = manent("epsilon", "--noise-multiplier", "2", "--rounds", "10", "--delta", "1e-5", "--plot", path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert "Drawn into" in result.stdout


def test_the_curve_goes_through_the_figure_that_is_printed(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr("manent.engines.plots.save", lambda figure, path: drawn.append(figure))
    manent("epsilon", "--noise-multiplier", "1", *CASE, "--plot", tmp_path / "curve.png")
    (axes,) = drawn[0].axes
    curve, point = axes.lines
    assert point.get_ydata()[0] == pytest.approx(6.19, abs=0.02)
    assert curve.get_xdata()[12] == pytest.approx(1.0)
    assert point.get_ydata()[0] == curve.get_ydata()[12]
    assert [text.get_text() for text in axes.texts] == ["epsilon 6.19"]
    drawn[0].canvas.draw()
    title = axes.title if axes.title.get_text() else axes._left_title
    assert title.get_window_extent().x1 <= drawn[0].bbox.x1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("epsilon", "--noise-multiplier", "0", "--rounds", "1", "--delta", "1e-5"), "noise_multiplier > 0"),
        (("epsilon", "--noise-multiplier", "1", "--rounds", "1", "--delta", "2"), "0 < delta < 1"),
        (
            ("epsilon", "--noise-multiplier", "1", "--rounds", "1", "--delta", "1e-5", "--relation", "x"),
            "expects neighboring_relation as one of",
        ),
        (("noise", "--epsilon", "-1", "--rounds", "1", "--delta", "1e-5"), "epsilon > 0"),
        (("budget", "nowhere.db"), "no ledger at"),
    ],
)
def test_what_cannot_be_is_a_message(arguments, words):
    result = manent(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_ledger_is_opened_and_shows_what_a_study_would_cost(tmp_path):
    ledger = tmp_path / "ledger.db"
    opened = manent("budget", ledger, "--open", "federation", "--epsilon", "30", "--delta", "1e-6", "--json")
    (row,) = json.loads(opened.stdout)["data_sets"]
    name = row["data_set"]
    assert (row["budget"], row["left"], row["spent"]) == (30, 30, 0)
    study = write(tmp_path, PRIVATE + f"\nimport dataclasses\ndata = dataclasses.replace(data, name={name!r})\n")
    found = json.loads(manent("budget", ledger, "--study", study, "--json").stdout)["planned"]
    assert found["before"] == 0 < found["after"] < 30
    assert found["fits"]
    assert "it fits" in manent("budget", ledger, "--study", study).stdout
    hopeless = write(tmp_path, named(name).replace("CentralNoise(1.0)", "CentralNoise(2.0**-13)"), "hopeless.py")
    none = json.loads(manent("budget", ledger, "--study", hopeless, "--json").stdout)["planned"]
    assert (none["after"], none["fits"]) == ("inf", False)
    assert "NOT fit" in manent("budget", ledger, "--study", hopeless).stdout
    assert manent("budget", ledger, "--open", "other").exit_code == 2
    assert manent("budget", ledger, "--study", write(tmp_path, name="plain.py")).exit_code == 2


def test_the_ledger_is_shown_whole_on_a_narrow_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ledger = tmp_path / "ledger.db"
    manent("budget", ledger, "--open", "digits", "--epsilon", "4", "--delta", "1e-4", "--unit", "example")
    shown = manent("budget", ledger, "--open", "a-much-longer-name-of-a-data-set", "--epsilon", "0.5", "--delta", "1e-6").stdout
    for word in ("reserved", "add_or_remove", "each example", "each client", "delta 0.0001", "delta 1e-06"):
        assert word in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_study_of_another_unit_has_no_cost(tmp_path):
    ledger, study = tmp_path / "ledger.db", write(tmp_path, named("patients"))
    manent("budget", ledger, "--open", "patients", "--epsilon", "4", "--delta", "1e-4", "--unit", "example")
    refused = manent("budget", ledger, "--study", study)
    assert refused.exit_code == 1
    assert "does not compose" in refused.stderr


def named(name: str) -> str:
    """The private study, on data of this name."""
    return PRIVATE + f"\nimport dataclasses\ndata = dataclasses.replace(data, name={name!r})\n"


def bucket(ledger: Path) -> dict[str, Any]:
    (row,) = json.loads(manent("budget", ledger, "--json").stdout)["data_sets"]
    return row


def test_a_run_spends_from_the_ledger_and_one_that_does_not_fit_never_begins(tmp_path):
    ledger, folder = tmp_path / "ledger.db", tmp_path / "run"
    study = write(tmp_path, named("patients"))
    manent("budget", ledger, "--open", "patients", "--epsilon", "8", "--delta", "1e-3")
    result = manent("run", study, "--workers", 0, "--folder", folder, "--ledger", ledger)
    assert result.exit_code == 0, result.stderr
    assert "if deployed" in result.stdout.replace("\n", " ")
    after = bucket(ledger)
    assert 0 < after["spent"] < 8
    assert (after["reserved"], after["runs"]) == (0, 1)
    refused = manent("run", study, "--workers", 0, "--folder", tmp_path / "more", "--ledger", ledger, "--set", "rounds=40")
    assert refused.exit_code == 1
    assert "Add noise, or run fewer rounds" in refused.stderr
    assert bucket(ledger) == after
    assert not (tmp_path / "more").exists()
    again = manent("run", study, "--workers", 0, "--folder", tmp_path / "more", "--ledger", ledger, "--set", "rounds=1")
    assert again.exit_code == 0, again.stderr
    assert bucket(ledger)["runs"] == 2


def test_a_refused_run_leaves_alone_what_was_in_its_folder(tmp_path):
    ledger, folder = tmp_path / "ledger.db", tmp_path / "mine"
    manent("budget", ledger, "--open", "patients", "--epsilon", "0.1", "--delta", "1e-3")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    study = write(tmp_path, named("patients"))
    assert manent("run", study, "--workers", 0, "--folder", folder, "--ledger", ledger).exit_code == 1
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_resumed_run_goes_on_under_its_own_reservation(tmp_path, monkeypatch):
    ledger, folder = tmp_path / "ledger.db", tmp_path / "run"
    manent("budget", ledger, "--open", "patients", "--epsilon", "8", "--delta", "1e-3")
    study = write(tmp_path, named("patients"))
    begun = begin(Launch(str(study), workers=0, ledger=str(ledger)), folder)
    monkeypatch.setattr(Silent, "advance", stop)
    with pytest.raises(KeyboardInterrupt):
        begun.run(quiet=True)
    stopped = bucket(ledger)
    assert stopped["spent"] + stopped["reserved"] > 0
    monkeypatch.undo()
    assert manent("run", "--resume", folder, "--ledger", ledger).exit_code == 2
    assert manent("run", "--resume", folder, "--quiet").exit_code == 0
    after = bucket(ledger)
    assert after["runs"] == 1
    assert after["reserved"] == 0
    assert after["spent"] == pytest.approx(stopped["spent"] + stopped["reserved"])


def stop(self, round, clients, metrics):
    raise KeyboardInterrupt


def test_a_ledger_that_is_not_there_is_a_message(tmp_path):
    result = manent("run", write(tmp_path, PRIVATE), "--ledger", tmp_path / "nowhere.db", "--folder", tmp_path / "run")
    assert result.exit_code == 2
    assert "no ledger at" in result.stderr
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "nowhere.db").exists()


def test_what_a_kill_left_is_listed_and_settled(tmp_path):
    from manent.accounting import Ledger, training
    from manent.crypto import SystemRandom
    from manent.storage import open_store

    path = tmp_path / "ledger.db"
    manent("budget", path, "--open", "patients", "--epsilon", "8", "--delta", "1e-3")
    ledger, event = Ledger(open_store(path)), training(5.0, 3)
    of = {"privacy_unit": "client", "neighboring_relation": "add_or_remove", "study": "ab" * 32, "random": SystemRandom()}
    unseen, some, unknown = (ledger.reserve("patients", event, **of) for _ in range(3))
    ledger.commit(some, "cd" * 32, sum=(1, 0))
    rows = json.loads(manent("budget", path, "--json").stdout)["unsettled"]
    assert {row["reservation"]: (row["released"], row["of"]) for row in rows} == {
        unseen.id: (0, 3),
        some.id: (1, 3),
        unknown.id: (0, 3),
    }
    assert f"not settled: {some.id} on patients, study abababababab" in manent("budget", path).stdout.replace("\n", " ")
    for wrong in (("--settle", "0" * 32), ("--released", "1"), ("--settle", some.id, "--released", "0")):
        assert manent("budget", path, *wrong).exit_code == 2
    assert manent("budget", path, "--settle", some.id, "--released", "4").exit_code == 2
    assert manent("budget", path, "--settle", unseen.id, "--released", "0").exit_code == 0
    assert manent("budget", path, "--settle", some.id, "--released", "2").exit_code == 0
    manent("budget", path, "--settle", unknown.id)
    assert json.loads(manent("budget", path, "--json").stdout)["unsettled"] == []
    (row,) = json.loads(manent("budget", path, "--json").stdout)["data_sets"]
    whole = json.loads(manent("epsilon", "--noise-multiplier", "5", "--rounds", "5", "--delta", "1e-3", "--json").stdout)
    assert row["spent"] == pytest.approx(whole["epsilon"])
    assert (row["reserved"], row["runs"]) == (0, 2)
    again = manent("budget", path, "--settle", some.id)
    assert again.exit_code == 2
    assert "waits to be settled" in again.stderr
    ledger.verify()


def test_a_budget_with_a_period_says_when_a_study_fits(tmp_path):
    ledger, study = tmp_path / "ledger.db", write(tmp_path, named("patients"))
    opened = manent(
        "budget", ledger, "--open", "patients", "--epsilon", "80", "--delta", "1e-3", "--period", "1.5", "7", "--json"
    )
    (row,) = json.loads(opened.stdout)["data_sets"]
    assert row["period"] == {"epsilon": 1.5, "days": 7, "spent": 0}
    shown = " ".join(manent("budget", ledger, "--study", study).stdout.split())
    assert "does NOT fit. It never fits: alone it costs more than the period's epsilon 1.5." in shown
    assert "0 of 1.5 in the last 7 days" in " ".join(shown.split())
    refused = manent("run", study, "--workers", 0, "--folder", tmp_path / "run", "--ledger", ledger)
    assert refused.exit_code == 1
    assert "for any 7 days" in " ".join(refused.stderr.split())
    assert not (tmp_path / "run").exists()
    assert manent("budget", ledger, "--period", "1", "7").exit_code == 2
    assert manent("budget", ledger, "--open", "more", "--epsilon", "1", "--delta", "1e-3", "--period", "2", "7").exit_code == 2


def test_a_budget_says_against_whom_it_holds(tmp_path):
    ledger = str(tmp_path / "ledger.db")
    opened = ("budget", ledger, "--open", "patients", "--epsilon", "8", "--delta", "1e-3")
    whom = ("--against", "server", "--against", "public")
    assert manent(*opened, *whom).exit_code == 0
    (row,) = json.loads(manent("budget", ledger, "--json").stdout)["data_sets"]
    assert row["against"] == ["server", "public"]
    assert "against server, public" in " ".join(manent("budget", ledger).stdout.split())
    assert manent(*opened).exit_code == 2  # another budget than it has
    assert manent("budget", ledger, "--against", "server").exit_code == 2
    for wrong in (("nobody",), ("server", "server")):
        named = [word for name in wrong for word in ("--against", name)]
        assert manent("budget", ledger, "--open", "more", "--epsilon", "8", "--delta", "1e-3", *named).exit_code == 2
