"""Feature shift: clients that measure the same things with different instruments."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.examples import Client, Column, Examples
from manent.core.randomness import repeatable
from manent.core.vectors import Array
from manent.data.federation import Federation

Kind = Literal["noise", "rotation", "affine"]


def feature_shift(federation: Federation, kind: Kind, strength: float, seed: int = 0) -> Federation:
    """A copy of a federation in which each client's inputs, train and test, are changed in a way of their own.

    Labels, columns and the server's test set stay as they are. In the schema, features lose their bounds and codes, which would
    no longer be true.

    | kind       | what happens at client i of N, counted from 1                                                       |
    |------------|-----------------------------------------------------------------------------------------------------|
    | "noise"    | Gaussian noise of variance strength * i / N on each number (Li et al. 2022, sec. 4)                 |
    | "rotation" | images are turned; the angles go evenly from -strength to +strength degrees; empty corners become 0 |
    | "affine"   | x * exp(strength * a) + strength * b, a and b ~ N(0, 1); a pair for each feature, one for images    |

    Args:
        federation: with x of float32; images are [..., height, width].
        kind: see the table.
        strength: at least 0. One client alone is turned by strength degrees.
        seed: decides the noise, a and b.

    Raises InvalidInput for another kind, a strength below 0, inputs that are characters, and a rotation of anything but images.
    """
    validate.one_of("feature_shift", "kind", kind, ("noise", "rotation", "affine"))
    validate.not_negative("feature_shift", "strength", strength)
    if federation.clients[0].train.x.dtype != np.float32:
        raise InvalidInput("feature_shift changes numbers; these inputs are characters (int64).")
    if kind == "rotation" and len(federation.schema.shape) < 2:
        raise InvalidInput(f"A rotation needs images [..., height, width]; one example has shape {federation.schema.shape}.")
    count = len(federation)
    clients = []
    for index, client in enumerate(federation.clients):
        parts = [
            None if data is None else _shifted(data, kind, strength, (index + 1, count), (seed, client.name, part))
            for part, data in (("train", client.train), ("test", client.test))
        ]
        clients.append(Client(client.name, parts[0] or client.train, parts[1]))
    features = tuple(Column(c.name, c.unit, missing=c.missing, description=c.description) for c in federation.schema.features)
    return replace(federation, clients=tuple(clients), schema=replace(federation.schema, features=features))


def _shifted(data: Examples, kind: Kind, strength: float, place: tuple[int, int], source: tuple[int, str, str]) -> Examples:
    (index, count), (seed, name, part) = place, source
    if kind == "noise":
        noise = repeatable(seed, "feature noise", name, part).standard_normal(data.x.shape, np.float32)
        x = data.x + np.float32(np.sqrt(strength * index / count)) * noise
    elif kind == "rotation":
        x = _rotated(data.x, strength * (2 * (index - 1) / (count - 1) - 1) if count > 1 else strength)
    else:
        rng = repeatable(seed, "feature map", name)
        size = data.x.shape[1:] if data.x.ndim == 2 else ()
        gain, offset = np.exp(strength * rng.standard_normal(size)), strength * rng.standard_normal(size)
        x = (data.x * gain + offset).astype(np.float32)
    return Examples(x, data.y, data.columns)


def _rotated(x: Array, degrees: float) -> Array:
    from scipy.ndimage import rotate

    turned: Array = rotate(x, degrees, axes=(-1, -2), reshape=False, order=1, mode="constant", cval=0.0)
    return turned.astype(np.float32)
