"""A run as it was asked for: kept in its folder, so that it can go on after anything."""

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
    """What `manent run` was told.

    Attributes:
        file: the study file, absolute.
        sets: overrides, "name=value".
        workers: processes; None takes as many as processors. The result does not depend on it.
        ledger: SQLite file, absolute, of the ledger that keeps the data set's budget; or None.
    """

    file: str
    sets: tuple[str, ...] = ()
    seed: int = 0
    workers: int | None = None
    evaluate_every: int = 1
    ledger: str | None = None


class Silent:
    """A watcher that shows nothing."""

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        """Nothing to show."""


@dataclass(frozen=True)
class Prepared:
    """A launch whose study was loaded and checked, and its folder."""

    launch: Launch
    declared: StudyFile
    folder: Path

    def run(self, quiet: bool = False) -> Run:
        """Run it, or go on with it; afterwards draw it where that is possible. `quiet` shows no progress.

        What is refused before it begins, such as a study that its data set's budget does not cover, leaves no folder.
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
                with suppress(OSError):  # where there is something else in it, it stays
                    self.folder.rmdir()
            raise
        draw(run)
        return run


def begin(launch: Launch, folder: Path | None) -> Prepared:
    """Load and check a study, then make its folder and keep there what is needed to go on.

    Raises InvalidInput for a study that does not load or does not fit its data (then no folder is made), and for a folder that
    holds a run already.
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
    """The run of a folder, from the study file and the command kept there. Raises InvalidInput where there is none.

    Args:
        workers: instead of as many as it was begun with.
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
    """runs/NAME-DATE-TIME, with a number where that exists."""
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "study"
    base = Path("runs") / f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}"
    return next(path for path in (base, *(base.with_name(f"{base.name}-{n}") for n in range(2, 1000))) if not path.exists())


def draw(run: Run) -> None:
    """Plots of a run into its folder: PNG and SVG. Does nothing without matplotlib, or for a run without a curve."""
    if run.folder is None or not (run.probe or len(run.history) > 1):
        return
    try:
        for ending in ("png", "svg"):
            run.plot(run.folder / "plots" / f"run.{ending}")
    except (MissingExtra, InvalidInput):
        return


def read_runs(folders: Sequence[Path]) -> Runs:
    """History and probe of run folders by a name that tells them apart. Raises InvalidInput for a folder without a run."""
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
    """Draw the runs of some folders into one file."""
    plot_runs(read_runs(folders), output)


def _title(study: Mapping[str, Any]) -> str:
    return str(study["name"] or study["algorithm"]["type"])


def _whole(folder: RunFolder, log: str) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a crash cut short is left out."""
    path = folder.path / log
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
