"""Fitted models, and their files. A file is safetensors: named tensors only, so nothing in it is ever executed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput
from manent.core.examples import Examples
from manent.core.metrics import METRICS, check_metrics, measure
from manent.core.protocols import Model
from manent.core.vectors import Array, Layout, Vector


class ScoringModel(Model, Protocol):
    """A model that also gives scores for inputs without targets."""

    def scores(self, vector: Vector, x: Array) -> Array:
        """The scores of inputs x [n, ...], in the shape of `core.metrics.Scored.scores`."""
        ...


def save(path: str | os.PathLike[str], layout: Layout, vector: Vector, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a vector [d] as named float32 tensors. The file appears whole or not at all.

    Args:
        path: of the file, which is replaced if it exists.
        layout: names and shapes of the tensors.
        metadata: text to store beside the tensors.

    Raises InvalidInput where the vector has another size, or, naming the tensor, where it is not finite.
    """
    from safetensors.numpy import save as encode

    layout.check_size(vector)
    layout.check_finite(vector)
    tensors = {name: np.array(t, np.float32, order="C") for name, t in layout.unflatten(vector).items()}
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(encode(tensors, dict(metadata or {})))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], layout: Layout) -> Vector:
    """float32[d], the vector of a file.

    Raises InvalidInput where the file cannot be read or is not safetensors, and, naming the tensor, where one is missing,
    unknown, of another shape, or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as decode

    try:
        tensors = decode(Path(path).read_bytes())
    except OSError as error:
        raise InvalidInput(f"Cannot read the model file {path}: {error.strerror}.") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is not a safetensors file that numpy can hold: {error}.") from None
    try:
        return layout.flatten(tensors)
    except InvalidInput as error:
        raise InvalidInput(f"{path} does not fit the model. {error}") from None


@dataclass(frozen=True)
class FittedModel:
    """A model with its weights.

    Attributes:
        model: the declaration.
        vector: float32[d], the weights.
    """

    model: ScoringModel
    vector: Vector

    def predict(self, x: Array) -> Array:
        """The predicted labels int64[n] (or [n, length]) of inputs x [n, ...]; for regression the values float32[n]."""
        scores = self.model.scores(self.vector, x)
        if self.model.kind == "regression":
            return scores
        if self.model.kind == "binary":
            return (scores > 0).astype(np.int64)
        labels: Array = scores.argmax(axis=-1)
        return labels

    def probabilities(self, x: Array) -> Array:
        """float64[..., classes], the probability of each class (2 for a binary model). Raises InvalidInput for regression."""
        if self.model.kind == "regression":
            raise InvalidInput("A regression model has no probabilities; use predict.")
        scores = self.model.scores(self.vector, x).astype(np.float64)
        if self.model.kind == "binary":
            scores = np.stack([np.zeros_like(scores), scores], axis=-1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities: Array = weights / weights.sum(axis=-1, keepdims=True)
        return probabilities

    def evaluate(self, examples: Examples, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """Metrics on these examples: those named, or all that fit the model. Raises InvalidInput for data that do not fit."""
        names = [m.name for m in METRICS.values() if self.model.kind in m.tasks] if metrics is None else metrics
        check_metrics(names, self.model.kind)
        self.model.check(examples, "evaluate")
        return measure(names, self.model.evaluate(self.vector, examples), self.model.classes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the weights to a file, with the model's declaration as metadata for people. Raises InvalidInput as `save`."""
        save(path, self.model.layout, self.vector, {"model": canonical(to_plain(self.model)).decode()})


def load_model(path: str | os.PathLike[str], model: ScoringModel) -> FittedModel:
    """The model, with the weights of a file that `FittedModel.save` wrote. Raises InvalidInput as `load`."""
    return FittedModel(model, load(path, model.layout))
