"""Writes the frozen transcripts in vectors/, one file for each suite, adversary and graph.

Run from the repository's root: `python -m tests.summation.secagg.make_vectors`. All is derived from the file's name, so the
script writes the same bytes again. What ML-KEM encapsulates cannot be derived: for suite 3 it is an input of the transcript,
taken from the file that is there as long as it fits the keys, and otherwise drawn anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import reference as ref

FOLDER = Path(__file__).parent / "vectors"
GRAPHS = {"complete": (5, 4), "regular": (8, 4)}
THRESHOLD, ROSTER = 4, 11
PHASES = ("nobody", "shares", "upload", "consent")  # who vanishes vanishes before this message of its own
WIDTHS = {"1-curious-complete": 20, "1-curious-regular": 9, "1-active-complete": 26, "1-active-regular": 33}
WIDTHS |= {"2-curious-complete": 16, "2-curious-regular": 32, "2-active-complete": 17, "2-active-regular": 62}
WIDTHS |= {"3-curious-complete": 12, "3-curious-regular": 40, "3-active-complete": 30, "3-active-regular": 25}
VANISHING = 2  # the position, in every transcript; its neighbours come before and after it


def drawn(name: str, *what: object) -> Iterator[bytes]:
    """A stream of 32 bytes at a time, from the name of the file and of what is drawn."""
    text, count = "/".join(map(str, ("manent vectors", name, *what))), 0
    while True:
        yield hashlib.sha256(f"{text}/{count}".encode()).digest()
        count += 1


def below_prime(stream: Iterator[bytes]) -> bytes:
    return next(draw for draw in stream if int.from_bytes(draw, "big") < ref.PRIME)


def identities(name: str) -> list[Ed25519PrivateKey]:
    """Of the whole roster, in the order of their public keys."""
    keys = [Ed25519PrivateKey.from_private_bytes(next(drawn(name, "identity", i))) for i in range(ROSTER)]
    return sorted(keys, key=lambda key: key.public_key().public_bytes_raw())


def call_of(name: str) -> ref.Call:
    suite, adversary, graph = name.split("-")
    n, k = GRAPHS[graph]
    terms = ref.Terms(int(suite), int(adversary == "active"), n, k, THRESHOLD, THRESHOLD, 5, WIDTHS[name], 0, 200_000)
    return ref.Call(
        terms=terms,
        study=next(drawn(name, "study")),
        sum_name="modèle",
        round=3,
        attempt=1,
        roster_number=7,
        roster=tuple(key.public_key().public_bytes_raw() for key in identities(name)),
        model=next(drawn(name, "model")),
        beacon_kind=terms.adversary,
        beacon=next(drawn(name, "beacon"))[: 20 + terms.suite],
    )


def chance_of(name: str, position: int) -> ref.Chance:
    stream = drawn(name, "chance", position)
    root, own_seed, channel = (below_prime(stream) for _ in range(3))
    draws = [int.from_bytes(below_prime(stream), "big") for _ in range(2 * (THRESHOLD - 1))]
    return ref.Chance(root, own_seed, channel, tuple(draws[: THRESHOLD - 1]), tuple(draws[THRESHOLD - 1 :]))


def vectors_of(call: ref.Call, name: str) -> list[list[int]]:
    """One a position. Each is as large as the sum allows, both ways; the first coordinates are at the edges."""
    high = (2 ** (call.terms.b - 1) - 1) // call.terms.n
    streams = [drawn(name, "x", p) for p in range(call.terms.n)]
    return [[high, -high, *(int.from_bytes(next(s), "big") % (2 * high + 1) - high for _ in range(3))] for s in streams]


def clients_of(call: ref.Call, name: str, before: dict[str, Any]) -> dict[int, ref.Client]:
    """The cohort, having advertised. `before` is the file's former content, for what was encapsulated."""
    keys = identities(name)
    cohort = ref.draw_cohort(ROSTER, call.seed, call.terms.n)
    clients = {p: ref.Client(call, p, keys[i], chance_of(name, p)) for p, i in enumerate(cohort)}
    if call.terms.suite == ref.HYBRID:
        for u, client in clients.items():
            former = before.get("clients", [{}] * len(clients))[u]
            near = call.neighbours(u)
            channel = {v: encapsulated(clients[v].channel_kem, former.get("for_channel", {}).get(str(v))) for v in near}
            masks = {v: encapsulated(clients[v].mask_kem, former.get("for_mask", {}).get(str(v))) for v in near if v > u}
            client.chance.for_channel.update(channel)
            client.chance.for_mask.update(masks)
    return clients


def encapsulated(key: Any, former: dict[str, str] | None) -> ref.Encapsulated:
    if former:
        found = ref.Encapsulated(bytes.fromhex(former["secret"]), bytes.fromhex(former["ciphertext"]))
        if key.decapsulate(found.ciphertext) == found.secret:
            return found
    return ref.Encapsulated(*key.public_key().encapsulate())


def transcript(clients: dict[int, ref.Client], vectors: list[list[int]], phase: str) -> dict[str, Any]:
    """Every message of an attempt, by kind and position; the client at VANISHING says nothing from `phase` on."""
    call = clients[0].call
    server, messages = ref.Server(call), dict[str, Any]()

    def there(step: str) -> list[int]:
        gone = phase != "nobody" and PHASES.index(phase) <= PHASES.index(step)
        return [p for p in clients if not (gone and p == VANISHING)]

    messages["call"] = call.message
    messages["advert"] = server.adverts = {p: client.advertise() for p, client in clients.items()}
    messages["directory"] = {p: server.directory(p) for p in clients}
    messages["shares"] = server.shares = {p: clients[p].share(messages["directory"][p]) for p in there("shares")}
    messages["deliveries"] = {p: server.deliveries(p) for p in there("shares")}
    upload = {p: clients[p].upload(messages["deliveries"][p], vectors[p]) for p in there("upload")}
    messages["upload"] = server.uploads = upload
    messages["received"] = server.received()
    last = messages["survivors"] = server.survivors()
    if call.terms.adversary:
        messages["consent"] = server.consents = {p: clients[p].consent(last) for p in there("consent")}
        messages["consents"] = {p: server.consents_for(p) for p in there("consent")}
    answered = {p: messages["consents"][p] if call.terms.adversary else last for p in there("consent")}
    messages["reveal"] = server.reveals = {p: clients[p].reveal(message) for p, message in answered.items()}
    messages["closed"] = server.closed()
    messages["sum"] = server.total()
    return messages


def written(messages: dict[str, Any], hybrid: bool) -> dict[str, Any]:
    """As JSON. Where keys are long, Directory and Deliveries, which repeat parts of Adverts and Shares, stand by their hashes."""
    found = dict[str, Any]()
    for kind, message in messages.items():
        hashed = hybrid and kind in ("directory", "deliveries")
        if isinstance(message, dict):
            found[kind] = {str(p): "sha256 " + hashlib.sha256(m).hexdigest() if hashed else m.hex() for p, m in message.items()}
        else:
            found[kind] = message.hex() if isinstance(message, bytes) else message
    return found


def inputs_of(client: ref.Client, vector: list[int]) -> dict[str, Any]:
    chance = client.chance
    inputs: dict[str, Any] = {"identity": client.identity.private_bytes_raw().hex(), "vector": vector}
    inputs |= {what: getattr(chance, what).hex() for what in ("root", "own_seed", "channel")}
    for what in ("seed_coefficients", "root_coefficients"):
        inputs[what] = [number.to_bytes(32, "big").hex() for number in getattr(chance, what)]
    for what in ("for_channel", "for_mask") if client.hybrid else ():
        outcomes = getattr(chance, what).items()
        inputs[what] = {str(v): {"secret": e.secret.hex(), "ciphertext": e.ciphertext.hex()} for v, e in outcomes}
    return inputs


def whole(name: str, before: dict[str, Any]) -> dict[str, Any]:
    """The content of a file: the call, each client's inputs, what all attempts have in common, and one attempt for each phase."""
    call = call_of(name)
    clients, vectors = clients_of(call, name, before), vectors_of(call, name)
    parameters = {key: value.hex() if isinstance(value, bytes) else value for key, value in vars(call).items()}
    parameters |= {"terms": vars(call.terms), "roster": [key.hex() for key in call.roster]}
    attempts = {phase: written(transcript(clients, vectors, phase), clients[0].hybrid) for phase in PHASES}
    common = {kind: attempts["nobody"][kind] for kind in ("call", "advert", "directory", "shares", "received", "closed")}
    for attempt in attempts.values():
        for kind in common:
            del attempt[kind]
    derived: dict[str, Any] = {"roster_root": call.roster_root.hex(), "seed": call.seed.hex(), "context": call.context.hex()}
    derived["cohort"] = ref.draw_cohort(ROSTER, call.seed, call.terms.n)
    people = [inputs_of(client, vectors[p]) for p, client in clients.items()]
    return {"parameters": parameters, "derived": derived, "clients": people, "common": common, "vanishes_before": attempts}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in WIDTHS:
        path = FOLDER / f"{name}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(whole(name, before), indent=1) + "\n")


if __name__ == "__main__":
    main()
