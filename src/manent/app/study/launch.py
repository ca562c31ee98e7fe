"""Launching a run. What was asked for is kept in the run's folder, so that it can go on after any interruption."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from manent.app.study.file import StudyFile, load_study
from manent.core.errors import InvalidInput, ManentError, MissingExtra
from manent.engines.folder import RunFolder
from manent.engines.plots import Runs, plot_runs
from manent.engines.run import Run
from manent.engines.simulate import simulate
from manent.privacy.check import check

COMMAND, SOURCE = "command.json", "study.py"


@dataclass(frozen=True)
class Launch:
    """What `manent run` was asked to do.

    Attributes:
        file: the absolute path of the study file.
        sets: overrides, "name=value".
        seed: of everything repeatable.
        workers: how many processes; None means one for each processor. The result does not depend on it.
        evaluate_every: rounds from one evaluation on the test parts to the next.
        ledger: the absolute path of the ledger (SQLite) that keeps the data set's budget; or None.
    """

    file: str
    sets: tuple[str, ...] = ()
    seed: int = 0
    workers: int | None = None
    evaluate_every: int = 1
    ledger: str | None = None


class Silent:
    """A watcher of a run's progress that shows nothing."""

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Prepared:
    """A launch, the study file that it loaded and checked, and the run's folder."""

    launch: Launch
    declared: StudyFile
    folder: Path

    def run(self, quiet: bool = False) -> Run:
        """Run it, or go on with it if it has begun; then draw its plots if matplotlib is installed.

        Args:
            quiet: show no progress.

        Raises what `simulate` raises. A run that is refused before it begins, for instance because the data set's budget does
        not cover it, leaves no folder.
        """
        launch, declared = self.launch, self.declared
        kept = RunFolder(self.folder)
        try:
            run = simulate(
                declared.study,
                declared.data,
                seed=launch.seed,
                workers=launch.workers,
                conditions=declared.conditions,
                folder=self.folder,
                resume=kept.begun,
                evaluate_every=launch.evaluate_every,
                watcher=Silent() if quiet else None,
                ledger=launch.ledger,
            )
        except ManentError:
            if not kept.begun:
                for name in (COMMAND, SOURCE):
                    (self.folder / name).unlink(missing_ok=True)
                with suppress(OSError):  # a folder with something else in it stays
                    self.folder.rmdir()
            raise
        draw(run)
        return run


def begin(launch: Launch, folder: Path | None) -> Prepared:
    """Load and check a study, then make its folder, with the study file and the command in it.

    Args:
        folder: where to keep the run; None takes `default_folder`.

    Raises InvalidInput for a study that does not load or does not fit its data, for a ledger that does not exist, and for a
    folder that already holds a run; and Refused for a study without an honest statement. None of these makes a folder.
    """
    declared = load_study(launch.file, launch.sets)
    check(declared.study, declared.data)
    if launch.ledger is not None and not Path(launch.ledger).is_file():
        raise InvalidInput(
            f"There is no ledger at {launch.ledger}; create it with: manent budget {launch.ledger} --open DATA_SET ..."
        )
    where = folder or default_folder(declared.study.name or Path(launch.file).stem)
    if (where / COMMAND).exists() or (where / "study.json").exists():
        raise InvalidInput(f"{where} already holds a run. Go on with it (manent run --resume {where}), or give another --folder.")
    where.mkdir(parents=True, exist_ok=True)
    kept = RunFolder(where)
    kept.write_text(SOURCE, Path(launch.file).read_text(encoding="utf-8"))
    kept.write(COMMAND, asdict(launch))
    return Prepared(launch, declared, where)


def reopen(folder: Path, workers: int | None = None) -> Prepared:
    """The run in a folder, from the study file and the command that are kept there.

    Args:
        workers: use so many, instead of the number that the run was begun with.

    Raises InvalidInput where the folder holds no run of `manent run`, or its command cannot be read.
    """
    if not (folder / COMMAND).is_file() or not (folder / SOURCE).is_file():
        raise InvalidInput(
            f"{folder} was not begun by `manent run` (no {COMMAND} and {SOURCE} in it); give the folder of such a run."
        )
    try:
        facts = json.loads((folder / COMMAND).read_text())
        launch = Launch(**{**facts, "sets": tuple(facts["sets"])})
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"{folder / COMMAND} is not what `manent run` wrote ({error}).") from None
    launch = launch if workers is None else replace(launch, workers=workers)
    declared = load_study(launch.file, launch.sets, (folder / SOURCE).read_text(encoding="utf-8"))
    return Prepared(launch, declared, folder)


def default_folder(name: str) -> Path:
    """runs/NAME-DATE-TIME, with a number at the end if that exists."""
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "study"
    base = Path("runs") / f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}"
    return next(path for path in (base, *(base.with_name(f"{base.name}-{n}") for n in range(2, 1000))) if not path.exists())


def draw(run: Run) -> None:
    """Draw a run into its folder, as PNG and SVG. Does nothing without matplotlib, or for a run without a curve."""
    if run.folder is None or not (run.probe or len(run.history) > 1):
        return
    try:
        for ending in ("png", "svg"):
            run.plot(run.folder / "plots" / f"run.{ending}")
    except (MissingExtra, InvalidInput):
        return


def read_runs(folders: Sequence[Path]) -> Runs:
    """History and probe of the runs in some folders, by a name that tells them apart.

    Raises InvalidInput for a folder without a run, and for one that is given twice.
    """
    opened = [RunFolder.open(folder) for folder in folders]
    names = [_title(folder.read("study.json")["study"]) for folder in opened]
    if len(set(names)) < len(names):
        names = [f"{name} ({folder.path.resolve().name})" for name, folder in zip(names, opened, strict=True)]
    if len(set(names)) < len(names):
        raise InvalidInput("The same folder was given twice; give each run once.")
    return {
        name: (_whole(folder, "history.jsonl"), _whole(folder, "probe.jsonl")) for name, folder in zip(names, opened, strict=True)
    }


def compare(folders: Sequence[Path], output: Path) -> None:
    """Draw the runs of some folders into one file. Raises InvalidInput as `read_runs` does."""
    plot_runs(read_runs(folders), output)


def _title(study: Mapping[str, Any]) -> str:
    return str(study["name"] or study["algorithm"]["type"])


def _whole(folder: RunFolder, log: str) -> list[dict[str, Any]]:
    """The rows of a log, without a last line that a crash cut short."""
    path = folder.path / log
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
