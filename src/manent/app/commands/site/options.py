"""Options of `manent site`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HERE = Path("site")
Chosen = Annotated[str, typer.Argument(metavar="STUDY", help="The first digits of its hash; see `manent site status`.")]
Data = Annotated[
    str,
    typer.Option(
        metavar="FILE.py:NAME",
        help="A function of yours that returns this site's data. If it has a parameter, it is given the data set's name.",
    ),
]
Folder = Annotated[Path, typer.Option(help="Where the site keeps its key, rules and state.")]
Invitation = Annotated[str, typer.Argument(metavar="INVITATION", help="The line that the server's operator gave.")]
