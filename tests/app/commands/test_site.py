"""Commands of a site that need no server."""

from __future__ import annotations

import json

import pytest

from manent.app.study.loader import loader
from manent.core.errors import InvalidInput
from manent.network.site.state import Known, SiteState
from tests.app.program import manent


def test_a_new_site_has_a_key_and_a_policy_that_allows_nobody(tmp_path):
    folder = tmp_path / "site"
    made = manent("site", "init", "karolinska", "--folder", folder)
    assert made.exit_code == 0
    assert (folder / "identity.key").stat().st_mode & 0o077 == 0
    found = json.loads(manent("site", "status", "--folder", folder, "--json").stdout)
    assert (found["name"], found["server"], found["studies"]) == ("karolinska", None, [])
    assert found["public"] in made.stdout
    assert manent("site", "init", "again", "--folder", folder).exit_code == 2


def test_a_folder_that_is_no_site_is_said_to_be_none(tmp_path):
    found = manent("site", "status", "--folder", tmp_path)
    assert found.exit_code == 2
    assert "manent site init" in found.stderr.replace("\n", " ")


def test_a_study_is_named_by_its_first_digits(tmp_path):
    folder = tmp_path / "site"
    manent("site", "init", "karolinska", "--folder", folder)
    found = manent("site", "review", "abc", "--folder", folder)
    assert found.exit_code == 2
    assert "0 studies begin with 'abc'" in found.stderr


def test_a_study_is_left(tmp_path):
    folder = tmp_path / "site"
    manent("site", "init", "karolinska", "--folder", folder)
    SiteState(folder).put_study(Known("ab" * 32, "cd" * 32, True, "", 1, 0, told=True))
    found = manent("site", "leave", "abab", "--folder", folder)
    assert found.exit_code == 0
    assert "Left study abababababab" in found.stdout
    known = SiteState(folder).study("ab" * 32)
    assert (known.accepted, known.told, known.later) == (False, False, False)


@pytest.mark.parametrize(("name", "said"), [("", "FILE.py:NAME"), (":none", "defines no"), (":number", "no function")])
def test_a_loader_is_a_function(tmp_path, name, said):
    (tmp_path / "load.py").write_text("number = 4")
    with pytest.raises(InvalidInput, match=said):
        loader(f"{tmp_path}/load.py{name}")


def test_a_loader_returns_data(tmp_path):
    (tmp_path / "load.py").write_text("def load():\n    return 3")
    with pytest.raises(InvalidInput, match="found an int"):
        loader(f"{tmp_path}/load.py:load")("data")


def test_a_loader_with_a_parameter_is_given_the_data_sets_name(tmp_path):
    path = tmp_path / "load.py"
    path.write_text("import manent as mn\n\ndef load(name):\n    return mn.data.heart_disease().client(name)\n")
    assert loader(f"{path}:load", ("Cleveland", "Hungary"))("Hungary").name == "Hungary"


def test_a_loader_without_one_cannot_serve_several_data_sets(tmp_path):
    path = tmp_path / "load.py"
    path.write_text("import manent as mn\n\ndef load():\n    return mn.data.heart_disease().clients[0]\n")
    assert loader(f"{path}:load", ("hearts",))("hearts").name == "Cleveland"
    with pytest.raises(InvalidInput, match=r"several data sets \(hearts, lungs\)"):
        loader(f"{path}:load", ("hearts", "lungs"))
