"""What befalls clients in a simulation: drop-outs and stragglers. Part of the world that is simulated, not of the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manent.core.errors import InvalidInput
from manent.core.randomness import repeatable

Stage = Literal["before_training", "before_upload", "after_upload"]


@dataclass(frozen=True)
class Conditions:
    """Each client's fate in each sum, drawn independently.

    Attributes:
        drop_before_training: probability that a client never starts.
        drop_before_upload: that it trains, but its vector never arrives.
        drop_after_upload: that it vanishes after its vector arrived; the vector counts.
        stragglers: probability that a client does only a share of its local work, uniform in (0, 1).
        drop_stragglers: whether a straggler is dropped instead (as FedAvg's server does in the FedProx paper).
    """

    drop_before_training: float = 0.0
    drop_before_upload: float = 0.0
    drop_after_upload: float = 0.0
    stragglers: float = 0.0
    drop_stragglers: bool = False

    def __post_init__(self) -> None:
        drops = self.drop_before_training, self.drop_before_upload, self.drop_after_upload
        if any(not 0 <= p <= 1 for p in (*drops, self.stragglers)) or sum(drops) > 1:
            raise InvalidInput(
                f"Conditions expects probabilities in [0, 1] whose drop-outs add up to at most 1; found drop-outs {drops}, "
                f"stragglers {self.stragglers}."
            )

    def fate(self, seed: int, round: int, index: int, client: str) -> Fate:
        """What happens to one client in one sum."""
        if self == _CALM:
            return _FINE
        draw, late, share = repeatable(seed, "conditions", round, index, client).random(3)
        if late < self.stragglers:
            if self.drop_stragglers:
                return Fate(dropped="before_upload")
            return Fate(work=max(float(share), 1e-9), dropped=self._drop(float(draw)))
        return Fate(dropped=self._drop(float(draw)))

    def _drop(self, draw: float) -> Stage | None:
        limit = 0.0
        for stage in ("before_training", "before_upload", "after_upload"):
            limit += float(getattr(self, f"drop_{stage}"))
            if draw < limit:
                return stage
        return None


@dataclass(frozen=True)
class Fate:
    """Share of the local work done, and the stage at which the client drops out, if any."""

    work: float = 1.0
    dropped: Stage | None = None

    @property
    def answers(self) -> bool:
        """Whether its vector arrives."""
        return self.dropped in (None, "after_upload")


_CALM, _FINE = Conditions(), Fate()
