"""The log survives a crash up to its last full batch; damage is refused, never passed over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.errors import ProtocolAbort
from manent.storm import Disk

BATCHES = st.lists(st.lists(st.binary(max_size=20), max_size=4), max_size=5)


def written(batches: list[list[bytes]]) -> tuple[Disk, list[int]]:
    """A disk and where each batch ends in its file."""
    disk, ends = Disk(), []
    for batch in batches:
        disk.append(batch)
        ends.append(len(disk.content))
    return disk, ends


@settings(max_examples=50, deadline=None)
@given(BATCHES)
def test_what_is_written_is_read(batches):
    disk, _ = written(batches)
    assert disk.recover() == [record for batch in batches for record in batch]


@settings(max_examples=50, deadline=None)
@given(BATCHES, st.data())
def test_cut_anywhere_the_full_batches_are_left_and_the_log_goes_on(batches, data):
    disk, ends = written(batches)
    cut = data.draw(st.integers(0, len(disk.content)))
    del disk.content[cut:]
    expected = [record for batch, end in zip(batches, ends, strict=True) if end <= cut for record in batch]
    assert disk.recover() == expected
    disk.append([b"next"])
    assert disk.recover() == [*expected, b"next"]


def test_every_changed_bit_is_refused():
    whole = bytes(written([[b"a", b"bc"], [b""], [b"d" * 9]])[0].content)
    for bit in range(8 * len(whole)):
        disk = Disk()
        disk.content = bytearray(whole)
        disk.content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolAbort, match="damaged at byte"):
            disk.recover()


@pytest.mark.parametrize("order", [(0, 2), (0, 0, 1, 2), (1, 0, 2), (0, 2, 1)])
def test_a_batch_missing_moved_or_repeated_is_refused(order):
    disk, ends = written([[b"first"], [b"other"], [b"third"]])
    frames = [bytes(disk.content[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    disk.content = bytearray(b"".join(frames[k] for k in order))
    with pytest.raises(ProtocolAbort):
        disk.recover()


def test_a_crash_takes_only_what_was_not_safe_in_every_way_it_can():
    lost = set()
    for seed in range(200):
        disk = Disk()
        disk.append([b"safe"])
        disk.sync()
        disk.append([b"one"])
        disk.append([b"two"])
        unsafe = disk.unsafe
        lost.add(disk.crash(np.random.default_rng(seed), torn=0.5))
        found = disk.recover()
        assert found in ([b"safe"], [b"safe", b"one"], [b"safe", b"one", b"two"])
        assert disk.unsafe == 0
    assert {0, unsafe} < lost
    assert len(lost) > 50
