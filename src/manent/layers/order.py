"""The one order in which layers act; see `core.layers.PLACES`."""

from __future__ import annotations

from manent.core.errors import Refused
from manent.core.layers import Form

_NOISES = "CentralNoise, LocalNoise, DistributedNoise and CorrelatedNoise"
ORDER = f"Clip or AdaptiveClip, then compression, then Discretize, then one of {_NOISES}"
"""The order in words, for messages."""


def refuse_order(layer: str, form: Form, whole: bool = False) -> None:
    """Raises Refused where a layer does not fit the form of what it gets.

    Args:
        layer: its name.
        whole: whether it acts on whole numbers, and so needs a Discretize before it; otherwise none may stand before it.
    """
    if form.noise is not None:
        raise Refused(f"{layer} stands behind {form.noise}, which ends the layers. The order is: {ORDER}.")
    if not whole and form.grid is not None:
        raise Refused(f"{layer} acts on real numbers, and stands behind Discretize. The order is: {ORDER}.")
    if whole and form.grid is None:
        raise Refused(f"{layer} acts on whole numbers, and no Discretize stands before it. The order is: {ORDER}.")
