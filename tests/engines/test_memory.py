"""Memory does not grow with the cohort; and nothing grows with the rounds."""

from __future__ import annotations

import gc
import os
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import manent as mn

FEATURES, CLASSES = 4000, 10
VECTOR = 8 * FEATURES * CLASSES  # bytes of one client's term in a sum


def federation(clients, rows=4, features=FEATURES):
    """All clients hold views of the same rows."""
    rng = np.random.default_rng(0)
    held = mn.Examples(rng.standard_normal((rows, features), dtype=np.float32), rng.integers(0, CLASSES, rows))
    return mn.Federation(
        tuple(mn.Client(f"client-{i}", held) for i in range(clients)), mn.Schema(shape=(features,), classes=CLASSES)
    )


def peak(algorithm, clients, workers):
    """Bytes that this process comes to hold in two rounds in which all clients take part."""
    data = federation(clients)
    local = mn.LocalSGD(lr=0.01, epochs=1)
    study = mn.Study(algorithm(mn.SoftmaxModel(FEATURES, CLASSES), local), 2)
    tracemalloc.start()
    try:
        mn.simulate(study, data, workers=workers)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("algorithm", [mn.FedAvg, mn.SCAFFOLD])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cohort_ten_times_as_large_takes_a_few_vectors_more(algorithm, workers):
    """A sum in a fixed tree holds at most one vector a level, in the worker and here: log2(10) more, and no client's vectors."""
    few, many = (peak(algorithm, clients, workers) for clients in (30, 300))
    layouts = 2 if algorithm is mn.SCAFFOLD else 1  # the update, and the change of the control variate
    assert many - few < layouts * 10 * VECTOR
    assert many - few < 0.1 * 270 * VECTOR


def test_client_memory_lies_in_a_sparse_file(tmp_path):
    data = federation(40)
    study = mn.Study(mn.SCAFFOLD(mn.SoftmaxModel(FEATURES, CLASSES), mn.LocalSGD(lr=0.01, epochs=1)), 1, mn.Cohort(size=5))
    mn.simulate(study, data, workers=0, folder=tmp_path / "run")
    kept = (tmp_path / "run" / "memory.bin").stat()
    row = VECTOR // 2
    assert kept.st_size >= 80 * row
    assert 5 * row <= 512 * kept.st_blocks < 8 * row


@dataclass
class Looking:
    """Notes, after some rounds, how many files and processes there are, and what they take."""

    rounds: tuple
    seen: list = field(default_factory=list)

    def advance(self, round, clients, metrics):
        if round in self.rounds:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            everyone = ["self", *children]
            files = [len(os.listdir(f"/proc/{each}/fd")) for each in everyone]
            pages = [int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in everyone]
            self.seen.append((len(children), files, np.array(pages) * os.sysconf("SC_PAGESIZE")))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_a_hundred_rounds_leave_nothing_behind(tmp_path):
    gc.collect()  # what other tests have left open
    before, children = len(os.listdir("/proc/self/fd")), Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    study = mn.Study(mn.SCAFFOLD(mn.SoftmaxModel(400, CLASSES), mn.LocalSGD(lr=0.01, epochs=1)), 120, mn.Cohort(size=12))
    looking = Looking((30, 120))
    mn.simulate(study, federation(30, features=400), workers=2, folder=tmp_path / "run", watcher=looking)
    (first, first_files, first_memory), (last, last_files, last_memory) = looking.seen
    assert first == last == 2 + len(children.split())
    assert first_files == last_files
    assert (last_memory - first_memory).max() < 3e6
    assert len(os.listdir("/proc/self/fd")) <= before
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == children
