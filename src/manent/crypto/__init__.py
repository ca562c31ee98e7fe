"""Cryptographic primitives: functions of values, without network, files or policy."""

from manent.crypto import additive, shamir
from manent.crypto.agreement import AgreementKey, EncapsulationKey, encapsulate
from manent.crypto.derive import derive
from manent.crypto.identity import SigningKey, verify
from manent.crypto.keystream import Masker
from manent.crypto.random import InsecureTestRNG, SystemRandom
from manent.crypto.seal import seal, unseal

__all__ = [
    "AgreementKey",
    "EncapsulationKey",
    "InsecureTestRNG",
    "Masker",
    "SigningKey",
    "SystemRandom",
    "additive",
    "derive",
    "encapsulate",
    "seal",
    "shamir",
    "unseal",
    "verify",
]
