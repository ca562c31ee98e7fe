"""A run folder that was damaged or altered is refused in words, and never gone on from."""

from __future__ import annotations

import json

import pytest

import manent as mn
from manent.accounting import Ledger
from manent.core.errors import InvalidInput
from manent.engines.folder import RunFolder
from manent.storage import open_store
from tests.engines.telling import StopAfter, Stopped


@pytest.fixture(scope="module")
def study() -> mn.Study:
    local = mn.LocalSGD(lr=0.1, steps=1, batch_size=4)
    algorithm = mn.FedAvg(mn.LogisticModel(13), local, weighting="equal")
    return mn.Study(algorithm, rounds=3, layers=[mn.Clip(1.0), mn.CentralNoise(5.0)])


@pytest.fixture
def folder(tmp_path, study):
    """A run whose process ended after its second round."""
    path = tmp_path / "run"
    with pytest.raises(Stopped):
        mn.simulate(study, mn.data.heart_disease(), workers=0, folder=path, watcher=StopAfter(2))
    return path


def resume(study, folder):
    return mn.simulate(study, mn.data.heart_disease(), workers=0, folder=folder, resume=True)


def flip(path, place):
    held = bytearray(path.read_bytes())
    held[place] ^= 1
    path.write_bytes(held)


def test_an_unharmed_folder_goes_on(study, folder):
    assert len(resume(study, folder).history) == 3


@pytest.mark.parametrize("place", [-1, -20, 300])
def test_one_bit_of_a_checkpoint(study, folder, place):
    flip(folder / "checkpoint.safetensors", place)
    with pytest.raises(InvalidInput, match=r"checkpoint\.safetensors is not what the run wrote.*sound copy"):
        resume(study, folder)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_checkpoint_that_was_cut_off(study, folder, length):
    path = folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InvalidInput, match=r"checkpoint\.safetensors is not what the run wrote"):
        resume(study, folder)


def test_a_history_that_lost_rows_is_not_filled_up(study, folder):
    path = folder / "history.jsonl"
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(InvalidInput, match=r"history\.jsonl is not what the run wrote"):
        resume(study, folder)
    path.unlink()
    with pytest.raises(InvalidInput, match=r"history\.jsonl is not what the run wrote"):
        resume(study, folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "x", "\x00"])
def test_a_study_that_is_no_json(study, folder, text):
    (folder / "study.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"study\.json is not what the run wrote"):
        resume(study, folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"reservation": 5}'])
def test_a_note_of_what_was_reserved_that_is_none(study, tmp_path, text):
    folder, book = tmp_path / "run", tmp_path / "ledger.db"
    ledger = Ledger(open_store(book))
    ledger.open("heart_disease", mn.Budget(50.0, 1e-3, "client", "add_or_remove"))
    mn.simulate(study, mn.data.heart_disease(), workers=0, folder=folder, ledger=ledger)
    (folder / "reservation.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"reservation\.json is not what the run wrote"):
        mn.simulate(study, mn.data.heart_disease(), workers=0, folder=folder, ledger=ledger, resume=True)


def test_a_checkpoint_of_an_older_version_has_no_digest_and_is_read(study, folder):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = folder / "checkpoint.safetensors"
    with safe_open(path, "numpy") as file:
        facts = file.metadata()["facts"]
    save_file(load_file(path), path, {"facts": facts})
    assert json.loads(facts)["released"] == RunFolder(folder).checkpoint().released == 2
