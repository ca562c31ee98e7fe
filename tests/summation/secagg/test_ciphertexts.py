"""The ML-KEM ciphertexts are the sender's own: a server cannot put its own secrets in their place.

ML-KEM opens any ciphertext without an error. If a server's own were taken for a neighbour's, the server would know that part of
the masks, and whoever breaks X25519 later would take them off.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from manent.core.parties import Envelope
from manent.crypto.agreement import encapsulate
from manent.summation.parties import wire
from manent.summation.parties.fields import Reader
from manent.summation.parties.wire import Kind
from manent.summation.secagg import bodies
from tests.summation.secagg.attempts import Attempt, Network, terms_of


@pytest.mark.parametrize("field", ["mask_text", "channel_text"])
def test_a_ciphertext_of_the_servers_own_ends_the_clients_part(field: str) -> None:
    attempt = Attempt(terms_of(5, suite=3))
    victim = 4  # its masks with everybody rest on ciphertexts of others

    def change(envelope: Envelope) -> list[Envelope]:
        kind, context, body = wire.unframe(envelope.body)
        if kind is not Kind.DELIVERIES or envelope.recipient != attempt.clients[victim].name:
            return [envelope]
        parcels = list(bodies.read_list(Reader(body), bodies.deliveries_reader(victim, True), lambda p: p.peer, 4))
        advert = attempt.server._adverts[victim]
        key = advert.mask_kem if field == "mask_text" else advert.channel_kem
        parcels[0] = replace(parcels[0], **{field: encapsulate(key)[1]})
        return [replace(envelope, body=wire.frame(kind, context, bodies.listing(parcels)))]

    Network(attempt, change=change).run()
    assert attempt.clients[victim].refusals
    assert attempt.clients[victim].uploaded_in is None
    assert victim not in attempt.survivors
    assert attempt.right_or_aborted()
