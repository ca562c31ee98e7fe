"""What the server says of its routes, as OpenAPI: parameters, bodies, every status, and the type of each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query
from fastapi.openapi.utils import get_openapi

from manent.network.wire import protocol
from manent.summation.parties.wire import HEAD

JSON = "application/json"
Schema = Mapping[str, Any]

Hash = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="The study: SHA-256 of its plain data.")]
SumId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}-[0-9]{1,9}-[0-9]{1,9}$", description="Study, round and index of a sum.")]
Wait = Annotated[float, Query(ge=0, allow_inf_nan=False, description="Seconds for which an answer may be held; 30 at most.")]
Seen = Annotated[str, Query(max_length=64, description="SHA-256 of the body that is known, or nothing.")]
Number = Annotated[int, Query(ge=0, lt=2**53, description="Of the roster; 0 for the newest.")]
Offset = Annotated[int, Query(ge=0, lt=2**62, description="Where the upload stands.")]
Wanted = Annotated[int, Query(ge=1, le=1_000_000, description="For how many sites it waits.")]
Seed = Annotated[int, Query(ge=0, lt=2**63, description="Of the study's repeatable randomness.")]

TEXT: Schema = {"type": "string"}
DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
WHOLE: Schema = {"type": "integer"}
YES: Schema = {"type": "boolean"}
ERROR: Schema = {"type": "object", "required": ["error"], "properties": {"error": TEXT}}
_WORDS: Mapping[int, str] = {
    200: "The answer.", 201: "It was taken.", 204: "There is nothing new.", 206: "A part of it.", 400: "What does not fit.",
    403: "Who may not.", 409: "What the protocol refuses.", 416: "There is no such part.", 503: "Not now.",
}  # fmt: skip
_VERSIONED: Schema = {protocol.HEADER: {"description": "The version of the protocol.", "schema": TEXT}}
SITE, PERSON = "site", "person"
_SECURITY: Schema = {
    SITE: {"type": "apiKey", "in": "header", "name": "Signature", "description": "RFC 9421, see docs/network.md, Signatures."},
    PERSON: {"type": "http", "scheme": "bearer", "description": "A token of `manent people add`."},
}


def table(required: Mapping[str, Schema] | None = None, **optional: Schema) -> Schema:
    """The schema of a JSON object; further members are ignored."""
    given = required or {}
    return {"type": "object", "required": sorted(given), "properties": {**given, **optional}}


def rows(of: Schema) -> Schema:
    """The schema of a list."""
    return {"type": "array", "items": of}


def octets(minimum: int, most: int) -> Schema:
    """The schema of a body of `minimum` to `most` bytes."""
    return {"type": "string", "format": "binary", "minLength": minimum, "maxLength": most}


MESSAGE = octets(HEAD, protocol.MOST_MESSAGE)


def described(
    summary: str,
    by: str = "",
    answer: Schema | None = None,
    body: Schema | None = None,
    statuses: Sequence[int] = (),
    good: int = 200,
    ranged: bool = False,
    kind: str = "",
) -> dict[str, Any]:
    """What a route's decorator takes.

    Args:
        summary: what the route gives or does.
        by: SITE or PERSON; "" if anyone may ask.
        answer: schema of a JSON answer; None for bytes.
        body: schema of the body, one of bytes if it is a string; None without a body.
        statuses: further ones, beside `good` and those of every route for sites or people.
        good: the status of success.
        ranged: whether it takes a Range header.
        kind: media type of the answer; "" for JSON or bytes.
    """
    kind = kind or (protocol.OCTETS if answer is None else JSON)
    found: dict[int | str, dict[str, Any]] = {
        good: _response(good, {kind: {"schema": octets(0, 1 << 62) if answer is None else answer}})
    }
    for status in {*statuses, *((400, 403, 409) if by else ()), *((206, 416) if ranged else ())}:
        if status in (204, 416):
            found[status] = _response(status, None)
        elif status in (206, 503):
            found[status] = _response(status, found[good]["content"])
        else:
            found[status] = _response(status, {JSON: {"schema": ERROR}})
    more: dict[str, Any] = {"security": [{by: []}]} if by else {}
    if body is not None:
        given = protocol.OCTETS if body.get("type") == "string" else JSON
        more["requestBody"] = {"required": True, "content": {given: {"schema": body}}}
    headers = {protocol.HEADER: "The version that is spoken; this one, or one beside it."} if by else {}
    headers |= {"Range": "bytes=FIRST-, or a span."} if ranged else {}
    more["parameters"] = [
        {"name": name, "in": "header", "required": False, "schema": TEXT, "description": words} for name, words in headers.items()
    ]
    return {"summary": summary, "status_code": good, "responses": found, "openapi_extra": more}


def _response(status: int, content: Mapping[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"description": _WORDS[status], "headers": dict(_VERSIONED)}
    return found if content is None else {**found, "content": content}


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, routes=app.routes, description=str(__doc__).split(":")[0])
        for operations in made["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # instead, this server answers 400 in its own words
        made["components"] = {"securitySchemes": _SECURITY}
        app.openapi_schema = made
    return app.openapi_schema
