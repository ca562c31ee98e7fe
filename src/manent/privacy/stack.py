"""The stack of layers of one sum: ordered, checked and resolved before anything runs, and the one thing that engines call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.layers import PLACES, Form, Gathering, Layer, LayerTraits, Place, Stage
from manent.core.protocols import SumSpec, traits
from manent.core.randomness import PrivateRandom
from manent.core.sums import Number
from manent.core.vectors import Array, Arrays, Block, Entry, Layout
from manent.layers.discretize import Discretize
from manent.layers.fixed import FixedPoint
from manent.layers.order import ORDER


@dataclass(frozen=True)
class Stack:
    """The layers of one sum.

    Attributes:
        given: the layout of the algorithm's vectors.
        names: of the layers, in order, those that were inserted among them.
        stages: the layers, resolved.
        clips: whether a client's vector is bounded, so that one that is not finite contributes zeros.
    """

    given: Layout
    names: tuple[str, ...]
    stages: tuple[Stage, ...]
    clips: bool

    @property
    def form(self) -> Form:
        """The form of the vectors that are summed."""
        return self.stages[-1].form if self.stages else Form(self.given)

    @property
    def layout(self) -> Layout:
        """The layout of the vectors that are summed."""
        return self.form.layout

    @property
    def dtype(self) -> Number:
        """Type of the numbers that are summed."""
        return np.float64 if self.form.grid is None else np.int64

    @property
    def noise(self) -> Stage | None:
        """The stage that makes the sum private, which has a `cost`; or None."""
        return next((stage for stage in self.stages if stage.cost is not None), None)

    def init(self) -> dict[str, Array]:
        """The server's first state of all stages, by name."""
        return self._named([stage.init() for stage in self.stages])

    def sends(self, state: Arrays) -> dict[str, Array]:
        """The part of the state that clients need: float32 arrays by name, sent with the assignment."""
        parts = zip(self.stages, self._parts(state), strict=True)
        return self._named([stage.sends(part) for stage, part in parts])

    def memory(self, head: str = "") -> Layout | None:
        """What a client keeps of all stages between rounds, or None.

        Args:
            head: put before every name of the layout.
        """
        kept = [(f"{head}layer.{i}.", layout) for i, stage in enumerate(self.stages) if (layout := stage.memory()) is not None]
        return Layout(tuple(_under(block, own) for own, layout in kept for block in layout.blocks)) if kept else None

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """Clients' vectors [k, d] as they are summed, [k, d'].

        Args:
            sent: what `sends` gave; it may hold other arrays too.

        Raises ManentError where a stage has memory: call `remember` there.
        """
        for stage, part in zip(self.stages, self._parts(sent), strict=True):
            vectors = stage.client(vectors, part, random)
        return vectors

    def remember(self, vectors: Array, memory: Array, sent: Arrays, random: PrivateRandom) -> tuple[Array, Array]:
        """`client` where a stage has memory. It also takes what the clients have kept, float32[k, m].

        Returns the vectors as they are summed, and what each client is to keep, float32[k, m], if its vector is in the released
        sum. A client whose memory would not be finite keeps what it had.
        """
        kept, at = [], 0
        for stage, part in zip(self.stages, self._parts(sent), strict=True):
            layout = stage.memory()
            size = 0 if layout is None else layout.size
            vectors, after = stage.remember(vectors, memory[:, at : at + size], part, random)
            kept.append(after)
            at += size
        with np.errstate(over="ignore"):
            row = np.concatenate(kept, axis=1, dtype=np.float32, casting="same_kind")
        # One broken vector must not silence a client for ever, so what is not finite is not kept.
        return vectors, np.where(np.isfinite(row).all(axis=1, keepdims=True), row, memory)

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, dict[str, Array]]:
        """The total [d'] as the algorithm knows it, float64[d], and the next state.

        It draws the server's noise: call it once for a sum, in the step that releases it.
        """
        parts = self._parts(state)
        for index in range(len(self.stages) - 1, -1, -1):
            total, parts[index] = self.stages[index].server(total, parts[index], random)
        return total, self._named(parts)

    def check_round(self, state: Arrays, round: int) -> None:
        """Raises Refused where the sum of this round (from 1) would break what the noise is sized for."""
        for stage, part in zip(self.stages, self._parts(state), strict=True):
            stage.check_round(part, round)

    def not_covered(self) -> tuple[str, ...]:
        """Lines for the statement: what the stages leave open."""
        return tuple(line for stage in self.stages for line in stage.not_covered())

    def _named(self, parts: Sequence[Arrays]) -> dict[str, Array]:
        return {f"layer.{i}.{name}": array for i, part in enumerate(parts) for name, array in part.items()}

    def _parts(self, arrays: Arrays) -> list[Arrays]:
        heads = [f"layer.{i}." for i in range(len(self.stages))]
        return [{n.removeprefix(head): array for n, array in arrays.items() if n.startswith(head)} for head in heads]


def build(spec: SumSpec, layers: Sequence[Layer], gathering: Gathering, trial: bool = False) -> Stack:
    """The stack of one kind of sum.

    Args:
        trial: to learn what a noise multiplier costs, whether the stack can run with that much noise or not.

    Raises:
        Refused: for a wrong order (the right one is told), a sum that cannot be clipped, or whole numbers that could overflow.
        InvalidInput: for a layer of an unknown place, one whose `enter` returns no `Stage`, or noise that neither a layer nor a
            budget sizes.
    """
    _check_order(layers)
    ordered = _with_grid(layers, gathering.whole)  # which keeps the order
    declared = [declared_by(layer) for layer in ordered]
    clips = any(own.place == "clip" for own in declared)
    if clips:
        _check_scalable(spec)
    z = next((own.noise_multiplier for own in declared if own.noise_multiplier is not None), None)
    gathering = gathering if z is None else replace(gathering, noise_multiplier=z)
    draws = next((own.draws(gathering.most) for own in declared if own.place == "noise"), None)
    gathering = replace(gathering, noise=draws)
    form, stages = Form(spec.layout), []
    for layer in ordered:
        stages.append(_entered(layer, form, gathering))
        form = stages[-1].form
    fault = next((stage.form.fault for stage in stages if stage.form.fault is not None), None)
    if fault is not None and not trial:
        raise Refused(fault)
    if not trial:
        _check_overflow(form, gathering)
    names = tuple(type(layer).__name__ + " (inserted)" * (layer not in layers) for layer in ordered)
    return Stack(spec.layout, names, tuple(stages), clips)


def _entered(layer: Layer, form: Form, gathering: Gathering) -> Stage:
    """The layer's stage. Raises InvalidInput where it returns something else."""
    stage = layer.enter(form, gathering)
    if not isinstance(stage, Stage):
        name = type(layer).__name__
        raise InvalidInput(
            f"{name}.enter must return a Stage (manent.core.layers.Stage, or a subclass); found {validate.shown(stage)}. "
            f"Return Stage(form), with the form of the vectors that {name} gives."
        )
    return stage


def declared_by(layer: Layer) -> LayerTraits:
    """What a layer declares beside `enter`. Raises InvalidInput for a place that is not one of `PLACES`."""
    found = traits(layer, LayerTraits)
    if found.place is not None:
        validate.one_of(type(layer).__name__, "place", found.place, PLACES)
    return found


def noise_layer(layers: Sequence[Layer]) -> Layer | None:
    """The layer that makes sums private, or None."""
    return next((layer for layer in layers if declared_by(layer).place == "noise"), None)


def _under(block: Block, head: str) -> Block:
    """The block with a head before every name."""
    entries = tuple(Entry(head + entry.name, entry.shape) for entry in block.entries)
    return replace(block, name=head + block.name, entries=entries)


def _with_grid(layers: Sequence[Layer], whole: bool) -> list[Layer]:
    """The layers with what makes numbers whole, where that is missing: noise needs it, and so do some summations."""
    places = [declared_by(layer).place for layer in layers]
    if "grid" in places:
        return list(layers)
    if "noise" in places:
        at = places.index("noise")
        return [*layers[:at], Discretize(), *layers[at:]]
    return [*layers, FixedPoint()] if whole else list(layers)


def _check_order(layers: Sequence[Layer]) -> None:
    """Raises Refused for layers in a wrong order, two for one place, and layers that do not go together."""
    declared = [(declared_by(layer), type(layer).__name__) for layer in layers]
    known: list[tuple[Place, str]] = [(own.place, name) for own, name in declared if own.place is not None]
    names = [name for _, name in known]
    right = [name for _, name in sorted(known, key=lambda item: PLACES.index(item[0]))]
    if names != right:
        raise Refused(f"The layers stand in a wrong order. Expected {', '.join(right)}; found {', '.join(names)}.")
    places = [place for place, _ in known]
    twice = next((name for place, name in known if places.count(place) > 1 and place != "compression"), None)
    if twice is not None:
        raise Refused(f"{twice} is one of two layers for the same place; keep one. The order is: {ORDER}.")
    _check_independent(declared)
    if "noise" in places and declared[-1][0].place != "noise":
        raise Refused(f"{declared[-1][1]} stands behind {names[-1]}, which ends the layers. The order is: {ORDER}.")


def _check_independent(declared: Sequence[tuple[LayerTraits, str]]) -> None:
    """Raises Refused where one layer needs the noise of rounds to be independent and another correlates it."""
    alone = next((name for own, name in declared if own.needs_independent_rounds), None)
    correlated = next((name for own, name in declared if own.correlates_rounds), None)
    if alone is not None and correlated is not None:
        raise Refused(f"{alone} shares out the noise of independent rounds, which {correlated} is not. Use Clip(norm).")


def _check_scalable(spec: SumSpec) -> None:
    """Raises Refused for a sum that cannot be clipped.

    Everything that the server applies must lie inside the one norm, and mean the same when it is scaled down.
    """
    if spec.divisor is not None:
        raise Refused(
            f"The sum {spec.name!r} is divided by its block {spec.divisor!r}, so weights leave the clients unclipped and the "
            f"divisor is not public. Set weighting='equal': the expected size of the cohort divides."
        )
    if not spec.scalable:
        cure = (
            "Leave evaluation out: evaluate on the server's test set, and in a simulation see run.probe."
            if spec.name == "evaluate"
            else "Leave this sum out, or use an algorithm whose vectors may be scaled down (SumSpec(scalable=True))."
        )
        raise Refused(f"The sum {spec.name!r} ({spec.purpose}) has no bound of its own, and cannot be clipped. {cure}")


def _check_overflow(form: Form, gathering: Gathering) -> None:
    """Raises Refused unless a sum of the largest numbers that clients can send, their noise included, is well within int64."""
    if form.grid is None:
        return
    if form.reach is None:
        raise Refused(
            "Nothing bounds the whole numbers that clients send, so their sum could overflow. Let the last layer's Form say "
            "`largest`, or use Discretize() or FixedPoint()."
        )
    if not gathering.most * form.reach < 1 << 61:
        raise Refused(
            f"{gathering.most:,} vectors with numbers up to {form.reach:.3g} could overflow a sum of 64 bits. "
            f"Use a coarser grid (fewer bits), or a smaller cohort."
        )
