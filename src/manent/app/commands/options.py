"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print it for programs.")]
Code = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A file that the study's code needs and no import names; may be repeated."),
]
Requirements = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Packages that the code needs, name==version in each line.")
]
ServerArgument = Annotated[str, typer.Argument(metavar="SERVER", help="The server's folder, or the URL of its database.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; may be repeated.")]
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY.py", help="Python that defines `study` and `data`.")]
