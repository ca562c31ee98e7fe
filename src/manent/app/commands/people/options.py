"""Arguments of `manent people`."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="The person's name: letters, digits, dots, dashes and underscores.")]
