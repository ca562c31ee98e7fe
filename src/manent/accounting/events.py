"""What ran, as one tree of frozen facts. Every epsilon is computed from it, and the ledger keeps it.

A noise multiplier is the standard deviation over the most that one unit's own contribution can be (its clip norm): the
sensitivity of adding or removing it. Replacing one unit by another changes a sum by up to twice that; the accountants allow for
it.

The meaning of a name and version never changes: an event that means something else gets another version. Unknown ones are
refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from manent.accounting import mechanisms
from manent.accounting.mechanisms import *  # noqa: F403  # every event is known here under its own name
from manent.accounting.mechanisms import Gaussian, Poisson, Repeated, Sampled
from manent.accounting.mechanisms.composition import composed
from manent.accounting.protocol import (
    DEEPEST,
    Event,
    NeighboringRelation,
    Sampling,
    check_event,
    check_part,
    check_relation,
    counted,
    kind_of,
    stored_fields,
    text,
    to_plain,
)
from manent.core.errors import InvalidInput

__all__ = [
    "Event",
    "NeighboringRelation",
    "Sampling",
    "check_relation",
    "composed",
    "counted",
    "parse",
    "text",
    "to_plain",
    "training",
    "without_sampling",
]
__all__ += mechanisms.__all__


def parse(values: object) -> Event:
    """The event of its plain form or JSON text.

    Raises:
        InvalidInput: for anything that is not exactly a known event: an unknown name or version, a missing or further field,
            a value out of range.
    """
    if isinstance(values, str | bytes):
        try:
            values = json.loads(values)
        except (ValueError, RecursionError):
            raise InvalidInput("Expected an event as JSON text; this is not JSON.") from None
    event: Event = _parse(values, 0)
    check_part(event)
    return event


def _parse(values: object, depth: int) -> Any:
    if depth > DEEPEST:
        raise InvalidInput(f"Events are nested at most {DEEPEST} deep; this one is deeper.")
    if not isinstance(values, Mapping):
        raise InvalidInput(f"Expected an event as a JSON object; found {type(values).__name__}.")
    kind = kind_of(values.get("type"), values.get("version"))
    expected = stored_fields(kind, values["version"])
    if set(values) != {"type", "version", *expected}:
        found = ", ".join(sorted(set(map(str, values)) - {"type", "version"}))
        raise InvalidInput(f"{kind.__name__} expects exactly the fields {', '.join(expected)}; found {found or 'none'}.")
    arguments: dict[str, Any] = {}
    for field in expected:
        value = values[field]
        if isinstance(value, Mapping):
            value = _parse(value, depth + 1)
        elif isinstance(value, list):
            value = tuple(_parse(item, depth + 1) for item in value)
        arguments[field] = value
    return kind(**arguments)


def without_sampling(event: Event) -> Event:
    """The event for an observer who knows who was drawn: sampling hides nothing from them.

    Raises InvalidInput for what is no event.
    """
    check_event(event)
    return event.without_sampling()


def training(noise_multiplier: float, rounds: int, sampling_probability: float | None = None) -> Event:
    """The common case: so many rounds of a Gaussian release, on Poisson samples, or on everyone where no probability is given."""
    release = Gaussian(noise_multiplier)
    return Repeated(release if sampling_probability is None else Sampled(release, Poisson(sampling_probability)), rounds)


def released(event: Event, count: int, by: Sampling | None, error: float = 0.0) -> Event:
    """So many releases of an event, each on a fresh sample where one is drawn (`by`) and is known to amplify the event.

    An event that covers all rounds already stays as it is.

    Args:
        error: bound on the total variation of each sample from `by`. Where the event has no word for it, nothing is sampled.
    """
    if event.spans_rounds:
        return event
    sampled = event.loosened(error) if by is not None and by.amplifies(event) else None
    return Repeated(event if sampled is None or by is None else Sampled(sampled, by), count)
