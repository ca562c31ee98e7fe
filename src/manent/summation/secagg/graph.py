"""Who is whose neighbour in a cohort: every client computes it, and nobody for another.

A cohort of n clients sits on a ring, at positions 0, ..., n - 1 in the order in which it was drawn. The graph follows from n and
the degree k alone; only who sits where is random. So a client that has the roster and the seed knows its neighbours.
"""

from __future__ import annotations

from manent.core.errors import InvalidInput


def is_graph(count: int, degree: int) -> bool:
    """Whether there is a graph of this degree: complete (degree = count - 1), or even and at least 2."""
    return count >= 2 and (degree == count - 1 or (2 <= degree < count - 1 and degree % 2 == 0))


def neighbours(position: int, count: int, degree: int) -> tuple[int, ...]:
    """The neighbours of a position in the Harary graph, sorted, without itself.

    They are the degree / 2 positions on each side of it on the ring, or everybody else where degree = count - 1.

    Raises InvalidInput for a position that is not on the ring, and for a degree that is neither even nor count - 1.
    """
    if not is_graph(count, degree):
        raise InvalidInput(
            f"A ring of {count} clients expects an even degree from 2 to {count - 2}, or {count - 1} for the complete graph; "
            f"found {degree}. Use a Choice that parameters.find returns."
        )
    if not 0 <= position < count:
        raise InvalidInput(f"Expected a position from 0 to {count - 1}, found {position}. Give the client's place in the cohort.")
    if degree == count - 1:
        return (*range(position), *range(position + 1, count))
    half = degree // 2
    if half <= position < count - half:
        return (*range(position - half, position), *range(position + 1, position + half + 1))
    return tuple(sorted((position + step) % count for step in range(-half, half + 1) if step))
