"""The error tree. Every message says what was expected, what was found, and what to change.

ManentError
    InvalidInput      a value, file or data set does not fit
    Refused           no honest privacy statement can be made
    BudgetSpent       not enough privacy budget is left
    ProtocolAbort     a protocol stopped, so as not to return a wrong sum
    NotAuthorized     the requester may not do this
    MissingExtra      an optional package is not installed
    ClientFailed      a client's own work failed
"""

from __future__ import annotations


class ManentError(Exception):
    """The root of every error that manent raises on purpose."""


class InvalidInput(ManentError):
    """A value, file or data set that does not fit what was declared."""


class Refused(ManentError):
    """A study for which no honest statement about privacy can be made."""


class BudgetSpent(ManentError):
    """A request that the remaining privacy budget does not cover."""


class ProtocolAbort(ManentError):
    """A protocol that stopped, because it would otherwise have returned a wrong sum."""


class NotAuthorized(ManentError):
    """A request from someone who is not allowed to make it."""


class MissingExtra(ManentError):
    """An optional package that is needed and not installed.

    Attributes:
        package: its name ("torch").
        extra: manent's extra that installs it ("torch").
        purpose: what needs it ("TorchModel").
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Install it with: pip install 'manent[{extra}]'"
        )
        self.package, self.extra, self.purpose = package, extra, purpose

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self.purpose)


class ClientFailed(ManentError):
    """A client's work that raised an error, or gave an update that is not finite.

    Attributes:
        client: the client's name.
        round: the round, counted from 1.
        stage: what the client was doing ("train", "evaluate", ...).
        reason: what went wrong.
        folder: where the client's inputs were kept for replay, or None.
    """

    def __init__(self, client: str, round: int, stage: str, reason: str, folder: str | None = None) -> None:
        kept = f" Its inputs are kept in {folder} (see manent.replay)." if folder else ""
        super().__init__(f"Client {client!r} failed in round {round}, stage {stage!r}: {reason}{kept}")
        self.client, self.round, self.stage, self.reason, self.folder = client, round, stage, reason, folder

    def __reduce__(self) -> tuple[type[ClientFailed], tuple[str, int, str, str, str | None]]:
        return type(self), (self.client, self.round, self.stage, self.reason, self.folder)
