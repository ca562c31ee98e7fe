"""`manent serve`: the server of a federation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from manent.app.studyfile import load_study
from manent.core.errors import MissingExtra


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(serve)


def serve(
    studies: Annotated[list[Path] | None, typer.Argument(metavar="[STUDY.py...]", help="Study files to queue.")] = None,
    folder: Annotated[Path, typer.Option(help="Where everything is kept; started again on it, the server goes on.")] = Path(
        "server"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8443,
    url: Annotated[str | None, typer.Option(help="By which sites reach it. (default: https://HOST:PORT)")] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Wait for so many. (default: the study's clients)")] = None,
    data_set: Annotated[str, typer.Option(help="The name under which sites know the data that the studies ask for.")] = "data",
    seed: Annotated[int, typer.Option(help="Of everything repeatable.")] = 0,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting.")] = None,
    work_seconds: Annotated[float, typer.Option(help="That sites have to compute and upload.")] = 3600.0,
    phase_seconds: Annotated[float, typer.Option(help="For every other step of a sum.")] = 120.0,
    grace_seconds: Annotated[float, typer.Option(help="That sites have to come back after a restart of the server.")] = 30.0,
    database: Annotated[str | None, typer.Option(help="URL of a PostgreSQL database. (default: SQLite in the folder)")] = None,
    once: Annotated[bool, typer.Option("--once", help="Leave when every study is over.")] = False,
) -> None:
    """Serve studies to sites over HTTPS. Kill it at any moment; started again, it goes on.

    [dim]manent serve study.py
    manent serve study.py --folder srv --sites 4 --host 0.0.0.0 --url https://fl.example:8443[/]
    """
    try:
        from manent.network.bundle import Bundle
        from manent.network.logs import log_json
        from manent.network.server.rounds import Settings
        from manent.network.server.serving import Address, prepare, queue
        from manent.network.server.serving import serve as run
    except ImportError as error:
        raise MissingExtra(str(error.name), "server", "A server") from None
    log_json()
    loaded = [(path, load_study(path, sets or ())) for path in studies or ()]
    needed = sites or max((len(file.data) for _, file in loaded), default=1)
    address = Address(host, port, (url or f"https://{host}:{port}").rstrip("/"))
    settings = Settings(work=work_seconds, phase=phase_seconds, grace=grace_seconds)
    prepared = prepare(folder, address, needed, settings, database=database)
    for path, file in loaded:
        name = re.sub(r"[^A-Za-z0-9._:@-]+", "-", data_set).strip("-")
        bundle = Bundle.of(file.study, file.data.schema, name, _code(file.study, path))
        hash = queue(prepared, file.study, bundle, seed, needed)
        typer.echo(f"Study {file.study.name or path.stem} ({hash[:16]}) waits for {needed} sites.")
    typer.echo(f"Serving at {address.url}. Each site joins with:\n\nmanent join {prepared.token.encode()} --data load.py:load\n")
    run(prepared, folder, once)


def _code(study: object, path: Path) -> dict[str, str]:
    """The files that a study's model needs: none for a built-in one."""
    from manent.network.declared import DeclaredModel, rebuild

    model = getattr(rebuild(study.plain()).algorithm, "model", None)  # type: ignore[attr-defined]
    return {"study.py": path.read_text(encoding="utf-8")} if isinstance(model, DeclaredModel) else {}
