"""The private source of randomness."""

from __future__ import annotations

import os

import numpy as np

from manent.crypto import InsecureTestRNG, SystemRandom
from tests.statistics import uniform_ok


def test_two_sources_differ_and_do_not_repeat():
    first, second = SystemRandom(), SystemRandom()
    a = first.bytes(32)
    assert len({a, first.bytes(32), second.bytes(32)}) == 3


def test_a_forked_child_takes_a_new_key():
    random = SystemRandom()
    random.bytes(1)
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, random.bytes(32))
        os._exit(0)
    os.wait()
    assert os.read(read, 32) != random.bytes(32)


def test_the_insecure_source_says_so_and_repeats():
    assert not InsecureTestRNG(1).secure
    assert SystemRandom().secure
    assert InsecureTestRNG(1).bytes(16) == InsecureTestRNG(1).bytes(16) != InsecureTestRNG(2).bytes(16)


def test_words_are_uniform_bytes():
    """Chi-square over byte values of a million words; false alarm 1e-10."""
    assert uniform_ok(np.bincount(SystemRandom().words(1_000_000).view(np.uint8), minlength=256))
