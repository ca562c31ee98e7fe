"""`manent serve`: the server of a federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manent.app.commands.options import Code, Requirements, Sets
from manent.core.errors import InvalidInput

if TYPE_CHECKING:
    from manent.app.study.file import StudyFile
    from manent.network.server.serving import Prepared
    from manent.network.wire.bundle import Bundle

HERE = Path("server")
Consortium = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Public key that signs rosters, from `manent roster init`. (default: a quick start)"),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="PEM file, from an authority that sites trust. (default: self-made; the invitation holds its hash)"
    ),
]
Database = Annotated[
    str | None, typer.Option(metavar="URL", help="A PostgreSQL database, which several servers may share. (default: SQLite)")
]
Bucket = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="An S3-compatible bucket, s3://NAME/PREFIX; its keys are in the environment, AWS_... (default: the folder)",
    ),
]


def serve(
    studies: Annotated[list[Path] | None, typer.Argument(metavar="[STUDY.py...]", help="Study files to queue.")] = None,
    folder: Annotated[Path, typer.Option(help="Where everything is kept; started again on it, the server goes on.")] = HERE,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8443,
    url: Annotated[str | None, typer.Option(help="The URL by which sites reach it. (default: https://HOST:PORT)")] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Wait for so many. (default: the study's clients)")] = None,
    consortium: Consortium = None,
    certificate: Certificate = None,
    certificate_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM.")] = None,
    data_set: Annotated[str, typer.Option(help="The name under which sites know the data that the studies ask for.")] = "data",
    code: Code = None,
    requirements: Requirements = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything repeatable.")] = 0,
    sets: Sets = None,
    work_seconds: Annotated[float, typer.Option(help="Seconds that sites have to compute and upload.")] = 3600.0,
    phase_seconds: Annotated[float, typer.Option(help="Seconds for every other step of a sum.")] = 120.0,
    grace_seconds: Annotated[float, typer.Option(help="Seconds that sites have to come back after the server restarts.")] = 30.0,
    database: Database = None,
    blobs: Bucket = None,
    once: Annotated[bool, typer.Option("--once", help="Leave when every study is over.")] = False,
) -> None:
    """Serve studies to sites over HTTPS. Kill it at any moment; started again, it goes on.

    Without --consortium, the server itself signs the list of who takes part: whoever joins with its invitation. In this quick
    start it is trusted with that. With --consortium, sites ask to join, and wait for a roster that the consortium has signed
    offline: manent roster --help.

    A study whose model is its own code travels with that code: study.py, the files beside it that it imports, and --code.

    [dim]manent serve study.py
    manent serve study.py --folder srv --sites 4 --host 0.0.0.0 --url https://fl.example:8443
    manent serve study.py --consortium 9f86d0...
    manent serve --database postgresql://manent@db/manent --blobs s3://manent-blobs[/]
    """
    from manent.app.logs import log_json
    from manent.app.study.bundle import bundle_of
    from manent.app.study.file import load_study
    from manent.network.server.rounds import Settings
    from manent.network.server.serving import Address, prepare
    from manent.network.server.serving import serve as run
    from manent.network.trust.identity import from_hex

    key = None if consortium is None else from_hex("A consortium's public key", consortium.strip().lower(), 32)
    if (certificate is None) != (certificate_key is None):
        raise InvalidInput("--certificate and --certificate-key go together; give both, or neither.")
    given = None if certificate is None or certificate_key is None else (certificate, certificate_key)
    log_json()
    loaded = [(path, load_study(path, sets or ())) for path in studies or ()]
    needed = sites or max((len(file.data) for _, file in loaded), default=1)
    bundles = [bundle_of(path, file, data_set, code or (), requirements) for path, file in loaded]
    address = Address(host, port, (url or f"https://{host}:{port}").rstrip("/"))
    settings = Settings(work=work_seconds, phase=phase_seconds, grace=grace_seconds)
    prepared = prepare(folder, address, needed, settings, key, database, blobs, given)
    for (path, file), bundle in zip(loaded, bundles, strict=True):
        _queue(prepared, path, file, bundle, seed, needed)
    _tell(prepared, folder, database)
    run(prepared, folder, once)


def _queue(prepared: Prepared, path: Path, file: StudyFile, bundle: Bundle, seed: int, needed: int) -> None:
    from manent.network.server.serving import queue

    hash = queue(prepared, file.study, bundle, seed, needed)
    typer.echo(f"Study {file.study.name or path.stem} ({hash[:16]}) waits for {needed} sites.")
    if bundle.code:
        typer.echo(f"  with its code, which each site reads or lists first: {', '.join(bundle.code)}")
        typer.echo(f"  code hash {bundle.code_hash}")


def _tell(prepared: Prepared, folder: Path, database: str | None) -> None:
    """What people need to know: the key, who says who takes part, and the invitation."""
    service, signer = prepared.service, prepared.service.rosters.signer.hex()
    typer.echo(f"Serving at {prepared.address.url}. Its public key, for the [researchers] of sites' policies:")
    typer.echo(service.identity.public_hex)
    if signer == service.identity.public_hex:
        typer.echo("A quick start: this server signs the list of who takes part, and is trusted with that.")
    else:
        where = database or folder
        typer.echo(
            f"Who takes part is signed by the consortium {signer}.\n"
            f"Who asked to join: manent roster waiting {where}. A signed roster is handed in by: manent roster publish {where}"
        )
    pin = "" if prepared.token.pin is None else f" MANENT_PIN={prepared.token.pin}"
    typer.echo(f"People with a token (manent people add --help) set MANENT_SERVER={prepared.address.url}{pin}")
    typer.echo(f"Each site joins with:\n\nmanent join {prepared.token.encode()} --data load.py:load\n")
