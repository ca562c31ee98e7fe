"""Models whose code travels with a study: a server does not run it, so it cannot draw the first vector either."""

from __future__ import annotations

from manent.core.protocols import AlgorithmTraits, traits
from manent.core.randomness import repeatable
from manent.core.study import Study
from manent.network.wire.bundle import Bundle
from manent.rounds.declared import declared_model, rebuild
from manent.storage.arrays import encode_arrays


def first_vector(study: Study, bundle: Bundle, seed: int) -> bytes:
    """The first vector of a study whose model has code of its own.

    Args:
        study: with its code.
        bundle: the same study as it travels.
        seed: of the study's repeatable randomness.

    Returns:
        Safetensors with the array "model", float32[d]; no bytes where the server can draw the vector by itself.
    """
    model = traits(study.algorithm, AlgorithmTraits).model
    if declared_model(rebuild(bundle.study)) is None or model is None:
        return b""
    return encode_arrays({"model": model.init(repeatable(seed, "init"))})
