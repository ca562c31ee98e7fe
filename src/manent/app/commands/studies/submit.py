"""`manent studies submit`: a study, queued at a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manent.app.commands.options import Code, Requirements, Sets, StudyArgument
from manent.app.commands.studies.asking import Pin, Server, asking


def submit(
    study: StudyArgument,
    server: Server,
    pin: Pin = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Wait for so many. (default: the study's clients)")] = None,
    key: Annotated[Path, typer.Option(help="Your signing key; made where there is none.")] = Path("researcher.key"),
    data_set: Annotated[str, typer.Option(help="The name under which sites know the data that the study asks for.")] = "data",
    code: Code = None,
    requirements: Requirements = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything repeatable.")] = 0,
    sets: Sets = None,
) -> None:
    """Queue a study. The data of study.py stay here: only their schema travels, and code where the model is your own.

    It is signed by your key. Sites take part in studies of the keys that their policies name: send them yours, once.

    [dim]manent studies submit study.py
    manent studies submit study.py --sites 4 --set rounds=30[/]
    """
    from manent.app.study.bundle import bundle_of
    from manent.app.study.file import load_study
    from manent.network.trust.identity import Identity

    file = load_study(study, sets or ())
    bundle, needed = bundle_of(study, file, data_set, code or (), requirements), sites or len(file.data)
    own = Identity.load(key) if key.exists() else Identity.create(key, "researcher")
    with asking(server, pin) as researcher:
        hash = researcher.submit(file.study, bundle, own.signing_key, needed, seed)
    typer.echo(f"Study {file.study.name or study.stem} ({hash[:16]}) waits for {needed} sites.")
    typer.echo(f"Signed by the key in {key}, for the [researchers] of sites' policies:\n{own.public_hex}")
    if bundle.code:
        typer.echo(f"With its code, which each site reads or lists first: {', '.join(bundle.code)}\ncode hash {bundle.code_hash}")
