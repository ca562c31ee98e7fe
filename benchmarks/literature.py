"""Published experiments run again, beside the published figures: with seeds, error bars, a plot, and where ours differs.

    python benchmarks/literature.py [--quick] [--only NAME ...] [--seeds N] [--folder MNIST] [--json]

The long form takes about half an hour on two cores and writes benchmarks/results/literature.md and literature/; the quick form
takes under ten minutes, runs fewer cells, seeds and rounds, and writes literature_quick.md and literature_quick/. Each paper's
results are written as soon as it is done, and each has a limit of wall time that its cells share.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, show
from literature import fednova2020, fedprox2020, mcmahan2016, reddi2020, scaffold2020
from literature.cells import Cell, Paper, carry_out, save
from threadpoolctl import threadpool_limits

import manent as mn

PAPERS = {module.PAPER.name: module.PAPER for module in (mcmahan2016, fedprox2020, scaffold2020, reddi2020, fednova2020)}


def run(paper: Paper, quick: bool, seeds: int | None, folder: str | None, workers: int, kept: dict[str, Any]) -> dict[str, Any]:
    """One paper's cells as plain data. Of kept results, those cells are run again that had run out of time."""
    began = time.monotonic()
    cells = {(cell.name, cell.seed): cell for cell in cells_of(kept)}
    jobs = paper.jobs(quick, seeds, folder)
    done = {key for key, cell in cells.items() if cell.ended != "time"}
    again = [job for job in jobs if (job.name, job.seed) not in done]
    cells |= {(cell.name, cell.seed): cell for cell in carry_out(again, paper.seconds[0 if quick else 1], workers)}
    return {
        "paper": paper.name,
        "quick": quick,
        "seconds": round(kept.get("seconds", 0.0) + time.monotonic() - began, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "cells": [cells[job.name, job.seed].to_plain() for job in jobs],
    }


def cells_of(values: dict[str, Any]) -> list[Cell]:
    return [Cell(**cell) for cell in values.get("cells", [])]


def write(place: Path, paper: Paper, values: dict[str, Any]) -> None:
    """NAME.json with tables and sentences, and NAME.png."""
    place.mkdir(parents=True, exist_ok=True)
    cells = cells_of(values)
    tables = [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in paper.tables(cells)]
    values = {**values, "tables": tables, "differs": paper.differs(cells)}
    head = json.dumps({**values, "cells": []}, indent=1, ensure_ascii=False)
    rows = ",\n  ".join(json.dumps(cell, ensure_ascii=False) for cell in values["cells"])  # a line a cell
    (place / f"{paper.name}.json").write_text(head.replace('"cells": []', f'"cells": [\n  {rows}\n ]') + "\n")
    save(paper, cells, place / f"{paper.name}.png")


def page(place: Path) -> str:
    """Markdown of every paper whose results are there."""
    form = "quick" if place.name.endswith("quick") else "long"
    lines = [
        "# Published experiments, run again",
        "",
        f"Written by `python benchmarks/literature.py{' --quick' if form == 'quick' else ''}`. Seeds decide first weights, "
        "cohorts, data order and (for images) the split; ± is one standard deviation over seeds, and one seed has none. "
        "Published figures were set down by hand: check them against the papers before quoting them.",
        "",
    ]
    for paper in PAPERS.values():
        path = place / f"{paper.name}.json"
        if not path.exists():
            continue
        values = json.loads(path.read_text())
        lines += [f"## {paper.title}", "", paper.setting, ""]
        for table in values["tables"]:
            lines += [f"**{table['title']}**", "", "| " + " | ".join(table["columns"]) + " |"]
            lines += ["|" + "---|" * len(table["columns"]), *("| " + " | ".join(row) + " |" for row in table["rows"]), ""]
        lines += ["**Where ours differs.** " + " ".join(values["differs"]), ""]
        lines += [f"![{paper.title}]({place.name}/{paper.name}.png)", ""]
        lines += [f"{len(values['cells'])} runs, {values['seconds']:.0f} s on {values['machine']}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cells, seeds and rounds; under ten minutes")
    parser.add_argument("--only", nargs="+", choices=list(PAPERS), metavar="NAME", help=f"of {', '.join(PAPERS)}")
    parser.add_argument("--seeds", type=int, help="at most so many seeds a cell")
    parser.add_argument("--folder", help="where MNIST's four IDX files lie; else see manent.data.mnist")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="keep earlier results, but run the cells that ran out of time")
    parser.add_argument("--redraw", action="store_true", help="run nothing; write tables, sentences and plots anew")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    # Evaluation in this process must not fight the workers, and whatever else runs, for two cores.
    torch.set_num_threads(1)
    threadpool_limits(1)
    place = RESULTS / ("literature_quick" if options.quick else "literature")
    found = {}
    for name in options.only or PAPERS:
        paper, path = PAPERS[name], place / f"{name}.json"
        if options.redraw and not path.exists():
            continue
        print(f"{paper.title} (at most {paper.seconds[0 if options.quick else 1]:.0f} s)", flush=True)
        if options.redraw:
            values = json.loads(path.read_text())
        else:
            kept = json.loads(path.read_text()) if options.again and path.exists() else {}
            try:
                values = run(paper, options.quick, options.seeds, options.folder, options.workers, kept)
            except mn.InvalidInput as error:  # data that are not there
                raise SystemExit(f"{name}: {error}") from None
        write(place, paper, values)
        place.with_suffix(".md").write_text(page(place))
        cells = cells_of(values)
        for table in paper.tables(cells):
            show(table.title, table.columns, table.rows)
        print("Where ours differs: " + " ".join(paper.differs(cells)) + "\n", flush=True)
        found[name] = json.loads(path.read_text())
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
