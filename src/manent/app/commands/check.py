"""`manent check`: who will see what."""

from __future__ import annotations

import json

import typer

from manent.app.commands.options import AsJson, Sets, StudyArgument


def check(study: StudyArgument, sets: Sets = None, as_json: AsJson = False) -> None:
    """Check a study against its data, and state who will see what. Nothing is run.

    [dim]manent check examples/hospitals.py
    manent check examples/hospitals.py --set rounds=100 --json[/]
    """
    from manent.app.study.file import load_study
    from manent.privacy.check import check as state

    declared = load_study(study, sets or ())
    statement = state(declared.study, declared.data)
    typer.echo(json.dumps(statement.to_plain(), indent=2, ensure_ascii=False) if as_json else str(statement))
