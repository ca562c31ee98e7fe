"""What a large model costs in memory: counted in models of 8 MB, in this process."""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest

import manent as mn
from manent.core.protocols import Assignment, Released
from manent.storage.arrays import array_pieces, read_arrays
from manent.storage.blobs import Blobs
from manent.summation.plain.server import PartedTotal
from manent.summation.plain.terms import PlainTerms, upload_message

SIZE = 2_000_000
MODEL = 4 * SIZE
SLACK = 0.4


@contextmanager
def at_most(models):
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= (models + SLACK) * MODEL


@pytest.fixture
def vector():
    return np.random.default_rng(0).random(SIZE, np.float32)


def test_an_upload_is_one_copy_of_the_vector(vector):
    terms = PlainTerms(4, SIZE, False, 0, 1, 4)
    with at_most(1):
        message = upload_message(bytes(32), vector, terms)
    assert message[-MODEL:] == vector.tobytes()


def test_arrays_go_to_a_blob_without_a_copy_and_come_back_as_one(tmp_path, vector):
    blobs = Blobs(tmp_path)
    with at_most(0):
        digest = blobs.put(array_pieces({"model": vector}))
    with at_most(1):
        found = read_arrays(blobs.read(digest), blobs.size(digest))
    np.testing.assert_array_equal(found["model"], vector)


def test_a_release_of_a_large_model_takes_the_new_model_alone(vector):
    fedavg = mn.FedAvg(mn.LogisticModel(SIZE - 1), mn.LocalSGD(lr=0.1, steps=1), weighting="equal")
    total = vector.astype(np.float64)
    parted = PartedTotal(PlainTerms(4, SIZE, False, 0, 1, 4), lambda start, stop: total[start:stop])
    state, assignment = {"model": vector}, Assignment("train", {"model": vector})
    with at_most(4.5):  # blocks of a million coordinates in float64 are four models of this size; of 500 MB they are nothing
        found, report = fedavg.apply(state, assignment, Released(parted, 4, 1, None))
    whole, told = fedavg.apply(state, assignment, Released(total, 4, 1, None))
    assert found["model"].tobytes() == whole["model"].tobytes()
    assert report == told


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (5, 200_000), (65_536, 65_537), (3, 3), (None, None)])
def test_a_parted_total_is_the_total(start, stop):
    whole = np.arange(200_000, dtype=np.float64)
    parted = PartedTotal(PlainTerms(1, len(whole), False, 0, 1, 1), lambda a, b: whole[a:b])
    np.testing.assert_array_equal(parted[start:stop], whole[start:stop])
    np.testing.assert_array_equal(np.asarray(parted), whole)
