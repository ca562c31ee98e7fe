"""The error tree. Every message says what was expected, what was found, and what to change."""

from __future__ import annotations


class ManentError(Exception):
    """Root of every error that manent raises on purpose."""


class InvalidInput(ManentError):
    """A value, file or data set that does not fit what was declared."""


class Refused(ManentError):
    """A study for which no honest statement can be made."""


class BudgetSpent(ManentError):
    """A privacy budget that does not cover what was asked."""


class ProtocolAbort(ManentError):
    """A protocol that stopped rather than return a wrong sum."""


class NotAuthorized(ManentError):
    """A request by someone who may not make it."""


class MissingExtra(ManentError):
    """An optional part that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Install it with: pip install 'manent[{extra}]'"
        )
        self.package, self.extra, self.purpose = package, extra, purpose

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self.purpose)


class ClientFailed(ManentError):
    """A client whose work raised, or whose update was not finite.

    Attributes:
        client: name of the client.
        round: round, counted from 1.
        stage: what it was doing ("train", "evaluate", ...).
        folder: where its inputs were kept for replay, or None.
    """

    def __init__(self, client: str, round: int, stage: str, reason: str, folder: str | None = None) -> None:
        kept = f" Its inputs are kept in {folder} (see manent.replay)." if folder else ""
        super().__init__(f"Client {client!r} failed in round {round}, stage {stage!r}: {reason}{kept}")
        self.client, self.round, self.stage, self.reason, self.folder = client, round, stage, reason, folder

    def __reduce__(self) -> tuple[type[ClientFailed], tuple[str, int, str, str, str | None]]:
        return type(self), (self.client, self.round, self.stage, self.reason, self.folder)
