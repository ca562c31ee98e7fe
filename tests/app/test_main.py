"""The commands: what they print, what they leave, and that bad input is a message and an exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import manent as mn
from manent.core.errors import ManentError, MissingExtra
from tests.app.program import STUDY, manent, program, write


def test_run_prints_the_outcome_and_leaves_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = manent("run", write(tmp_path), "--folder", folder, "--workers", 0, "--set", "rounds=4", "--seed", 5)
    assert result.exit_code == 0
    assert re.search(r"rounds +4", result.stdout)
    for part in ("clients' accuracy", "sent", "Who saw what: the server saw every client's vector", "no differential privacy"):
        assert part in re.sub(r"\s+", " ", result.stdout)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"study.json", "study.py", "command.json", "history.jsonl", "probe.jsonl", "model.safetensors", "plots"}
    assert {path.name for path in (folder / "plots").iterdir()} == {"run.png", "run.svg"}
    assert json.loads((folder / "command.json").read_text())["sets"] == ["rounds=4"]
    assert json.loads((folder / "study.json").read_text())["seed"] == 5


def test_run_gives_what_simulate_gives(tmp_path: Path) -> None:
    from manent.app.study.file import load_study

    path = write(tmp_path)
    manent("run", path, "--folder", tmp_path / "run", "--workers", 0, "--seed", 3, "--quiet")
    declared = load_study(path)
    direct = mn.simulate(declared.study, declared.data, seed=3, workers=0)
    kept = mn.load_model(tmp_path / "run" / "model.safetensors", direct.model.model)
    assert np.array_equal(kept.vector, direct.model.vector)


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    result = manent("run", write(tmp_path), "--folder", tmp_path / "run", "--workers", 0, "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_the_default_folder_is_named_after_study_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert manent("run", write(tmp_path), "--workers", 0).exit_code == 0
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    assert len(names) == 2
    assert all(re.fullmatch(r"small-\d{8}-\d{6}(-2)?", name) for name in names)


QUERY = """
import manent as mn
data = mn.data.heart_disease()
study = mn.Study({query})
"""


def test_a_query_prints_its_answer(tmp_path: Path) -> None:
    mean = manent("run", write(tmp_path, QUERY.format(query='mn.Mean("age")')), "--folder", tmp_path / "mean", "--workers", 0)
    assert re.search(r"mean 53\.\d+ years", mean.stdout)
    assert "count 740" in mean.stdout
    bars = manent("run", write(tmp_path, QUERY.format(query='mn.Histogram("cp")')), "--folder", tmp_path / "bars", "--workers", 0)
    assert re.search(r"asymptomatic +█+ +392", bars.stdout)
    ages = write(tmp_path, QUERY.format(query='mn.Histogram("age", bins=6)'))
    assert re.search(r"40 to 60 +█+", manent("run", ages, "--folder", tmp_path / "ages", "--workers", 0).stdout)


ROWS = "np.array([[1.0], [2.0], [3.0], [4.0]], np.float32), np.array([0, 1, 0, 1])"
BAD = {
    "NaN in data": (f"mn.data.from_arrays({ROWS.replace('2.0', 'np.nan')}, clients=2)", "nan"),
    "an empty client": (
        "mn.Federation((mn.Client('a', mn.Examples(np.zeros((0, 1), np.float32), np.zeros(0, np.int64))),), "
        "mn.Schema(shape=(1,), classes=2))",
        "'a'",
    ),
    "mismatched labels": (f"mn.data.from_arrays({ROWS.replace('0, 1, 0, 1', '0, 1, 0, 7')}, clients=2)", "7"),
    "a schema violation": (
        f"mn.data.from_arrays({ROWS}, clients=2, schema=mn.Schema((mn.Column('age', low=0, high=3),), shape=(1,), classes=2))",
        "'age'",
    ),
    "rows that do not match": (f"mn.data.from_arrays({ROWS.replace('0, 1, 0, 1', '0, 1, 0')}, clients=2)", "rows"),
    "features that do not fit the model": (f"mn.data.from_arrays({ROWS.replace('1.0]', '1.0, 5.0]')}, clients=2)", ""),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["run", "check"])
def test_bad_data_are_a_message_and_leave_no_folder(tmp_path: Path, name: str, command: str) -> None:
    data, expected = BAD[name]
    study = "study = mn.Study(mn.FedAvg(mn.LogisticModel(1), mn.LocalSGD(lr=0.1, steps=1)))"
    text = f"import numpy as np\nimport manent as mn\ndata = {data}\n{study}\n"
    options = ("--folder", tmp_path / "run") if command == "run" else ()
    result = manent(command, write(tmp_path, text), *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "missing.py"), "There is no file"),
        (("run",), "Give a study file"),
        (("run", "STUDY", "--resume", "x"), "not both"),
        (("run", "STUDY", "--set", "roundz=3"), "did you mean rounds"),
        (("run", "--resume", "nowhere"), "not begun by `manent run`"),
        (("run", "--resume", "nowhere", "--seed", "3"), "leave them out"),
        (("check", "STUDY", "--set", "cohort.size=9"), "asks for 9 clients, but the data have 4"),
        (("plot", "nowhere"), "holds no run"),
        (("data", "describe", "heart"), "Did you mean heart_disease"),
        (("data", "describe", "heart_disease", "--plot", "x.docx"), "ending must be one of"),
    ],
)
def test_bad_arguments_are_a_message_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    study = write(tmp_path)
    result = manent(*(str(study) if argument == "STUDY" else argument for argument in arguments))
    assert result.exit_code == 2
    assert expected in result.stderr
    assert not (tmp_path / "runs").exists()


DIVERGES = """
import numpy as np
import manent as mn
x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
data = mn.data.from_arrays(x, x[:, 0].copy(), clients=2)
local = mn.LocalSGD(lr=1.0, steps=3, schedule=mn.ExponentialDecay(1e6))
study = mn.Study(mn.FedAvg(mn.LinearModel(3), local), rounds=9)
"""


@pytest.mark.filterwarnings("error")
def test_a_client_that_diverges_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = manent("run", write(tmp_path, DIVERGES), "--folder", folder, "--workers", 0)
    assert result.exit_code == 1
    assert re.search(r"Client 'client-\d' failed in round [2-9], stage 'train': .*training diverged", result.stderr)
    assert "Traceback" not in result.stderr
    (failure,) = (folder / "failures").iterdir()
    assert str(failure) in result.stderr.replace("\n", "")
    assert (failure / "inputs.safetensors").exists()
    assert len((folder / "history.jsonl").read_text().splitlines()) >= 1
    assert (folder / "checkpoint.safetensors").exists()


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    path, folder = write(tmp_path), tmp_path / "run"
    manent("run", path, "--folder", folder, "--workers", 0)
    before = (folder / "history.jsonl").read_bytes()
    again = manent("run", path, "--folder", folder, "--workers", 0)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    assert (folder / "history.jsonl").read_bytes() == before


def test_resume_of_a_finished_run_shows_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    manent("run", write(tmp_path), "--folder", folder, "--workers", 0)
    before = (folder / "history.jsonl").read_bytes(), (folder / "model.safetensors").read_bytes()
    result = manent("run", "--resume", folder, "--workers", 0)
    assert result.exit_code == 0
    assert re.search(r"rounds +3", result.stdout)
    assert ((folder / "history.jsonl").read_bytes(), (folder / "model.safetensors").read_bytes()) == before


def test_resume_refuses_a_command_that_was_tampered_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    manent("run", write(tmp_path), "--folder", folder, "--workers", 0)
    (folder / "command.json").write_text(json.dumps({"file": "x", "sets": [], "sed": 1}))
    result = manent("run", "--resume", folder)
    assert result.exit_code == 2
    assert "not what `manent run` wrote" in result.stderr


def test_check_states_who_sees_what_and_runs_nothing(tmp_path: Path) -> None:
    path = write(tmp_path)
    text = manent("check", path).stdout
    for part in ("What is summed", "update 4, weight 1", "Who sees what", "every client's vector", "Not covered"):
        assert part in text
    facts = json.loads(manent("check", path, "--json", "--set", "rounds=9").stdout)
    assert facts["rounds"] == 9
    assert facts["summation"] == "Plain"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "__pycache__"] == []


def test_plot_draws_one_run_and_compares_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folders = write(tmp_path), [tmp_path / "one", tmp_path / "two"]
    for index, folder in enumerate(folders):
        manent("run", path, "--folder", folder, "--workers", 0, "--seed", index)
    monkeypatch.chdir(tmp_path)
    assert manent("plot", folders[0]).exit_code == 0
    assert manent("plot", *folders).exit_code == 0
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    assert manent("plot", *folders, "-o", tmp_path / "both.svg").exit_code == 0
    drawn = (tmp_path / "both.svg").read_text()
    assert drawn.startswith("<?xml")
    assert manent("plot", folders[0], folders[0]).exit_code == 2


def test_plot_of_a_query_says_that_it_has_no_curve(tmp_path: Path) -> None:
    path = write(tmp_path, QUERY.format(query='mn.Mean("age")'))
    manent("run", path, "--folder", tmp_path / "run", "--workers", 0)
    result = manent("plot", tmp_path / "run")
    assert result.exit_code == 2
    assert "no metric by round" in result.stderr


def test_describe_shows_data_by_name_and_of_a_study(tmp_path: Path) -> None:
    assert "Switzerland" in manent("data", "describe", "heart_disease").stdout
    result = manent("data", "describe", write(tmp_path), "--plot", tmp_path / "data.png")
    assert "client-3" in result.stdout
    assert (tmp_path / "data.png").read_bytes().startswith(b"\x89PNG")


def test_version_and_help() -> None:
    assert manent("--version").stdout.strip() == f"manent {mn.__version__}"
    for command in (("run",), ("check",), ("plot",), ("data", "describe"), ("demo", "hospitals")):
        text = manent(*command, "--help").stdout
        assert text.count(f"manent {' '.join(command)}") >= 2, f"the help of {command} shows no example"


def test_errors_of_other_kinds_exit_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise MissingExtra("matplotlib", "plots", "Drawing")

    monkeypatch.setattr("manent.app.study.launch.compare", missing)
    result = manent("plot", tmp_path)
    assert result.exit_code == 1
    assert "pip install 'manent[plots]'" in result.stderr
    assert issubclass(MissingExtra, ManentError)


def test_the_program_itself_reports_on_stderr(tmp_path: Path) -> None:
    process = program("run", tmp_path / "missing.py")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("Error: There is no file")
    good = program("check", write(tmp_path, STUDY))
    out, err = good.communicate(timeout=60)
    assert (good.returncode, err) == (0, "")
    assert "Who sees what" in out


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (("serve", "STUDY"), "uvicorn", "network"),
        (("serve", "STUDY"), "fastapi", "server"),
        (("site", "join", "manent-join-1.x", "--folder", "SITE"), "httpx", "network"),
        (("join", "manent-join-1.x", "--data", "load.py:load"), "httpx", "network"),
    ],
)
def test_a_command_whose_packages_are_missing_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], package: str, extra: str
) -> None:
    places = {"STUDY": str(write(tmp_path)), "SITE": str(tmp_path / "site")}
    manent("site", "init", "somewhere", "--folder", places["SITE"])
    for name in [name for name in sys.modules if name.startswith(("manent.network.server", "manent.network.site"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = manent(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 1
    assert f"'{package}'" in result.stderr
    assert f"pip install 'manent[{extra}]'" in result.stderr.replace("\n", " ")


def test_the_package_is_a_program_too() -> None:
    found = subprocess.run([sys.executable, "-m", "manent", "--version"], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, f"manent {mn.__version__}\n")
    wrong = subprocess.run([sys.executable, "-m", "manent", "check", "nowhere.py"], capture_output=True, text=True, timeout=60)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Error: There is no file nowhere.py" in wrong.stderr
    assert "Usage: manent " in subprocess.run([sys.executable, "-m", "manent", "--help"], capture_output=True, text=True).stdout
