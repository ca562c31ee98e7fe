"""The sections of a site's policy. Each checks its values as it is read, and raises InvalidInput for one that does not fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import time
from typing import Literal

from manent.accounting import Budget, Period
from manent.accounting.budget import check_period
from manent.core.errors import InvalidInput
from manent.core.observers import ObserverName
from manent.core.validate import count, fraction, positive
from manent.rounds.strict import shown

Isolation = Literal["required", "preferred"]
WHOLE_DAY = "00:00-24:00"
_HASH = re.compile(r"[0-9a-f]{64}")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True)
class CodeRule:
    """Which code of a study's own may run here.

    Attributes:
        rule: "none": only studies of built-in models; "listed": also those whose `Bundle.code_hash` is in `hashes`; "reviewed":
            every study, with code or without, must be approved by hand.
        isolation: of the process in which that code runs: "required"; or "preferred" if the system may not be able to.
        hashes: of the code that is allowed by "listed"; 64 hexadecimal digits each.
    """

    rule: Literal["none", "listed", "reviewed"]
    isolation: Isolation
    hashes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for found in self.hashes:
            check_hash("code.hashes", found)
        if self.hashes and self.rule != "listed":
            raise InvalidInput(
                f"code.hashes has no effect with code.rule = {self.rule!r}. Set code.rule = 'listed', or remove it."
            )


@dataclass(frozen=True)
class CohortRule:
    """How many others must stand beside this site.

    Attributes:
        minimum: the fewest sites that are asked for each sum; at least 1.
        survivors: the fewest answers with which a sum may be released; 1 to `minimum`.
    """

    minimum: int
    survivors: int

    def __post_init__(self) -> None:
        count("A policy", "cohort.minimum", self.minimum)
        count("A policy", "cohort.survivors", self.survivors)
        if self.survivors > self.minimum:
            raise InvalidInput(
                f"A policy expects cohort.survivors <= cohort.minimum; found {self.survivors} and {self.minimum}. Lower the "
                f"first, or raise the second."
            )


@dataclass(frozen=True)
class SummationRule:
    """How sums may be formed.

    Attributes:
        allowed: "SecAgg", in which the server sees only totals; "Plain", in which it sees this site's vector.
        adversary: what SecAgg must withstand: "active", a server that lies; or at least "curious", a server that looks.
        corrupt: the share of the cohort that may collude with the server, at least; 0 or more, and below 1.
        post_quantum: whether recorded traffic must stay secret from later quantum computers.
    """

    allowed: tuple[Literal["SecAgg", "Plain"], ...]
    adversary: Literal["active", "curious"]
    corrupt: float
    post_quantum: bool

    def __post_init__(self) -> None:
        if not self.allowed:
            raise InvalidInput("summation.allowed names no summation, so no study fits. Name 'SecAgg', or 'Plain'.")
        fraction("A policy", "summation.corrupt", self.corrupt, one=False)


@dataclass(frozen=True)
class PrivacyRule:
    """The differential privacy that each study must have.

    Attributes:
        required: whether it must have any. The other fields are given if, and only if, it must.
        epsilon: the most that one study may have; positive.
        delta: the most that one study may have; above 0, and below 1.
        unit: "client" protects all data of a site together; "example" protects single examples, which "client" does as well.
        against: the observers against whom it must hold.
    """

    required: bool
    epsilon: float | None = None
    delta: float | None = None
    unit: Literal["client", "example"] | None = None
    against: tuple[ObserverName, ...] = ()

    def __post_init__(self) -> None:
        rest = {"epsilon": self.epsilon, "delta": self.delta, "unit": self.unit, "against": self.against}
        for name, value in rest.items():
            if self.required and value in (None, ()):
                raise InvalidInput(f"A policy with privacy.required = true lacks privacy.{name}; add it.")
            if not self.required and value not in (None, ()):
                raise InvalidInput(f"privacy.{name} has no effect with privacy.required = false. Set that to true, or remove it.")
        if self.required:
            positive("A policy", "privacy.epsilon", self.epsilon)
            fraction("A policy", "privacy.delta", self.delta, zero=False, one=False)


@dataclass(frozen=True)
class DataRule:
    """A data set that studies may name.

    Attributes:
        budget: what all studies on it together may spend. None if no privacy is required: then there is no account.
        period: the most of it that they may spend in any so many days; None for no such cap.
    """

    budget: Budget | None = None
    period: Period | None = None

    def __post_init__(self) -> None:
        if self.period is not None and self.budget is None:
            raise InvalidInput("A policy's data set has a period and no budget. Add its budget, or remove the period.")
        if self.budget is not None:
            check_period(self.period, self.budget)


@dataclass(frozen=True)
class LimitRule:
    """The largest study that is accepted. All limits are positive.

    Attributes:
        model_mb: size of its model, at 4 bytes a parameter; a megabyte is 10^6 bytes.
        memory_mb: memory for its code, and for what the site itself must hold for one sum.
        seconds: time in which its code must compute one answer.
        rounds: how many rounds it may have.
    """

    model_mb: float
    memory_mb: float
    seconds: float
    rounds: int

    def __post_init__(self) -> None:
        positive("A policy", "limits.model_mb", self.model_mb)
        positive("A policy", "limits.memory_mb", self.memory_mb)
        positive("A policy", "limits.seconds", self.seconds)
        count("A policy", "limits.rounds", self.rounds)


@dataclass(frozen=True)
class WorkRule:
    """When this machine works.

    Attributes:
        hours: spans of local time, such as "20:00-06:00"; "00:00-24:00" is the whole day.
        mains_power: whether it works only on mains power.
        load: the highest load average of the last minute, for each processor, at which it works; None for any.
    """

    hours: tuple[str, ...]
    mains_power: bool
    load: float | None = None

    def __post_init__(self) -> None:
        if not self.hours:
            raise InvalidInput(f"work.hours names no span, so no study fits. Write [{WHOLE_DAY!r}] for the whole day.")
        for span in self.hours:
            _span(span)
        if self.load is not None:
            positive("A policy", "work.load", self.load, ", or leave it out")

    def now(self, at: time) -> bool:
        """Whether a local time is within the hours."""
        minute = 60 * at.hour + at.minute
        return any(_within(minute, *_span(span)) for span in self.hours)


def _span(text: str) -> tuple[int, int]:
    """The first minute of a span, and the minute after its last, counted from midnight."""
    found = _HOURS.fullmatch(text)
    if text == WHOLE_DAY:
        return 0, 24 * 60
    if found is None or found[1] + found[2] == found[3] + found[4]:
        raise InvalidInput(f"work.hours expects spans such as '20:00-06:00', or {WHOLE_DAY!r}; found {shown(text)}.")
    a, b, c, d = (int(part) for part in found.groups())
    return 60 * a + b, 60 * c + d


def _within(minute: int, first: int, end: int) -> bool:
    return first <= minute < end if first < end else minute >= first or minute < end


def check_hash(where: str, found: str) -> None:
    """Raises InvalidInput unless the text is 64 hexadecimal digits in lower case, as a hash or a public key."""
    if not _HASH.fullmatch(found):
        raise InvalidInput(f"{where} expects 64 hexadecimal digits in lower case; found {shown(found)}.")


EXAMPLE = """\
# What this site takes part in. What is not allowed here is refused, with a reason that the researcher sees. A key that is
# unknown, or of the wrong type, makes the whole policy invalid; then nothing runs.

[researchers]
# Whose studies: names, and public keys of 64 hexadecimal digits. Without an entry, nobody's.
# "Ada Example" = "0000000000000000000000000000000000000000000000000000000000000000"

[code]
# Which code of a study's own (a network, a loader) may run here:
#   "none"      only studies of built-in models
#   "listed"    also code whose hash is in hashes = ["..."], with any settings that this policy allows
#   "reviewed"  a person must read and approve each study: manent site review
rule = "reviewed"
# "required": code runs only in a process without network, keys and files; "preferred": also if this system cannot do that.
isolation = "required"

[cohort]
# The fewest sites that are asked for a sum, and the fewest answers with which one is released. If three sites answer, two of them
# together can subtract theirs from the sum and see the third's.
minimum = 4
survivors = 3

[summation]
# "SecAgg": the server sees only totals. "Plain": it sees this site's own vector, from which data can often be rebuilt.
allowed = ["SecAgg"]
# What SecAgg must withstand: a server that lies ("active") or only looks ("curious"), and this share of sites that help it.
adversary = "active"
corrupt = 0.1
post_quantum = true

[privacy]
# The differential privacy that each study must have. With required = false, remove the four keys below it.
required = true
epsilon = 4.0
delta = 1e-5
# "example": single records; "client": all records of this site together, which few sites can afford.
unit = "example"
# Against whom: "server", "clients" (any other site), "public" (who sees the result); and in studies that declare that some sites
# collude, "colluders" and "server and colluders". The account is charged for the dearest of them.
against = ["server", "clients", "public"]

[data]
# The data sets that a study may name, each with what all studies together may spend on it, once and for all.
# [data.heart_disease]
# budget = { epsilon = 10.0, delta = 1e-5, privacy_unit = "example", neighboring_relation = "add_or_remove" }
# Also the most of it in any so many days, if you like. When they have passed, what was spent stays spent.
# period = { epsilon = 1.0, days = 30.0 }

[limits]
model_mb = 100       # of the model, at 4 bytes a parameter
memory_mb = 4000     # of the study's code, and of what one sum needs
seconds = 3600       # for one answer of its code
rounds = 1000

[work]
# Spans of local time; ["00:00-24:00"] is the whole day.
hours = ["20:00-06:00"]
mains_power = true
# Only while the load of the last minute, for each processor, is at most this. Leave it out to work at any load.
load = 0.5
"""
