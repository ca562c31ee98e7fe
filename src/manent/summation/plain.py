"""The sum in the clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from manent.core.protocols import View
from manent.core.sums import Number, TreeSum


@final
@dataclass(frozen=True)
class Plain:
    """Every client sends its vector to the server, which adds them. It hides nothing: the server sees each vector."""

    @property
    def view(self) -> View:
        return "every client's vector"

    def init(self, size: int, count: int, dtype: Number = np.float64) -> TreeSum:
        return TreeSum(size, count, dtype)
