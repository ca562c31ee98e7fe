"""What befalls clients in a simulation: drop-outs and stragglers. They are part of the simulated world, not of the study."""

from __future__ import annotations

from dataclasses import dataclass

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.protocols import Dropout
from manent.core.randomness import repeatable


@dataclass(frozen=True)
class Conditions:
    """The fate of each client in each sum, drawn independently.

    Attributes:
        drop_before_training: probability that a client never starts.
        drop_before_upload: that it trains, but its vector never arrives.
        drop_after_upload: that it vanishes after its vector arrived; the vector counts.
        stragglers: probability that a client does only a share of its local work, uniform in (0, 1).
        drop_stragglers: whether a straggler is dropped instead (as FedAvg's server does in the FedProx paper).

    Raises InvalidInput unless all are probabilities, and those of dropping out add up to at most 1.
    """

    drop_before_training: float = 0.0
    drop_before_upload: float = 0.0
    drop_after_upload: float = 0.0
    stragglers: float = 0.0
    drop_stragglers: bool = False

    def __post_init__(self) -> None:
        validate.fraction("Conditions", "drop_before_training", self.drop_before_training)
        validate.fraction("Conditions", "drop_before_upload", self.drop_before_upload)
        validate.fraction("Conditions", "drop_after_upload", self.drop_after_upload)
        validate.fraction("Conditions", "stragglers", self.stragglers)
        drops = self.drop_before_training, self.drop_before_upload, self.drop_after_upload
        if sum(drops) > 1:
            raise InvalidInput(f"Conditions expects drop-outs that add up to at most 1; found {drops}. Lower one of them.")

    def fate(self, seed: int, round: int, index: int, client: str) -> Fate:
        """What happens to one client in one sum: the same for the same seed."""
        if self == _CALM:
            return _FINE
        draw, late, share = repeatable(seed, "conditions", round, index, client).random(3)
        if late < self.stragglers:
            if self.drop_stragglers:
                return Fate(dropped="before_upload")
            return Fate(work=max(float(share), 1e-9), dropped=self._drop(float(draw)))
        return Fate(dropped=self._drop(float(draw)))

    def _drop(self, draw: float) -> Dropout | None:
        limit = 0.0
        chances: tuple[tuple[Dropout, float], ...] = (
            ("before_training", self.drop_before_training),
            ("before_upload", self.drop_before_upload),
            ("after_upload", self.drop_after_upload),
        )
        for stage, chance in chances:
            limit += float(chance)
            if draw < limit:
                return stage
        return None


@dataclass(frozen=True)
class Fate:
    """What happens to a client in a sum.

    Attributes:
        work: share of the local work that it does, in (0, 1].
        dropped: when it vanishes, or None where it does not.
    """

    work: float = 1.0
    dropped: Dropout | None = None

    @property
    def answers(self) -> bool:
        """Whether its vector arrives."""
        return self.dropped in (None, "after_upload")


_CALM, _FINE = Conditions(), Fate()
