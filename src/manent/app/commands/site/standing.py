"""How a site stands, as several commands tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from manent.core.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manent.network.site.spending import Account
    from manent.network.site.state import SiteState


def account(state: SiteState) -> Account:
    """A site's account of its budgets. Raises InvalidInput where its folder has no policy."""
    from manent.network.site.spending import Account
    from manent.network.site.state import POLICY
    from manent.network.trust.policy import Policy

    if not (state.folder / POLICY).exists():
        raise InvalidInput(f"{state.folder} has no {POLICY}; begin a site with: manent site init")
    return Account(state, Policy.load(state.folder / POLICY))


def tell_budgets(found: Sequence[dict[str, Any]]) -> None:
    """Print a line for each data set's budget."""
    for one in found:
        typer.echo(
            f"  budget of {one['data']}: epsilon {one['epsilon']:g}, spent {one['spent']:.4g}, set aside {one['reserved']:.4g}, "
            f"left {one['left']:.4g}" + _rate(one["period"])
        )


def _rate(period: dict[str, float] | None) -> str:
    return "" if period is None else f"; in the last {period['days']:g} days {period['spent']:.4g} of {period['epsilon']:g}"


def stands(state: SiteState, on: bool) -> str:
    """Whether a site is `on` the roster, in words; and where it is not, what the consortium has to do."""
    name, key = state.identity.name, state.identity.public_hex
    if not on:
        return f"Asked; the consortium has to sign a roster with this site on it:\n  manent roster add {name} {key}"
    by = "the server itself: a quick start, in which it says who takes part" if state.server.quick_start else "the consortium"
    return f"On the roster, which is signed by {by}."
