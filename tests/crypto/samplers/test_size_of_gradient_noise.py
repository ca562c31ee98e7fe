"""How large the noise on a sum of gradients must be: every part of the sensitivity, exactly, and what is drawn of it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from manent.core.training.dpsgd import SUM_SLACK
from manent.crypto.random import InsecureTestRNG
from manent.crypto.samplers import gradients
from manent.crypto.samplers.gradients import ExactDraws, grid_bits, grid_sensitivity, on_grid, sampler_error
from manent.crypto.samplers.tables import STATISTICAL_DISTANCE


@pytest.mark.parametrize("parameters", [1, 7, 1000, 10**6, 10**9])
def test_the_sensitivity_covers_the_clip_the_slack_of_sums_and_the_rounding(parameters):
    """In whole numbers: a clipped gradient, what computing two sums may add to it, and half a step a coordinate of each sum."""
    clip, rounding = 2.0 ** grid_bits(parameters), math.sqrt(parameters)
    assert grid_sensitivity(parameters) >= clip * (1 + SUM_SLACK) + rounding


def test_rounding_alone_moves_a_sum_by_almost_what_is_counted_for_it():
    """One example that moves every coordinate across the middle of a step moves the integers by sqrt(p) more than itself."""
    parameters, clip_norm = 10_000, 1.0
    step = clip_norm / 2.0 ** grid_bits(parameters)
    before = np.full(parameters, (0.5 - 1e-6) * step)
    one = np.full(parameters, 2e-6 * step)  # far below the clip norm
    moved = on_grid(before + one, clip_norm) - on_grid(before, clip_norm)
    assert Fraction(int((moved**2).sum())) == parameters
    assert grid_sensitivity(parameters) - 2.0 ** grid_bits(parameters) * (1 + SUM_SLACK) >= math.sqrt(parameters)


@pytest.mark.parametrize(("parameters", "z"), [(1, 1.0), (50, 0.3), (4096, 7.5)])
def test_the_noise_is_drawn_for_the_whole_sensitivity(parameters, z, monkeypatch):
    asked = []

    def recorded(sigma, size, random):
        asked.append((sigma, size))
        return np.zeros(size, np.int64)

    monkeypatch.setattr(gradients, "rounded_gaussian", recorded)
    ExactDraws(InsecureTestRNG(0)).noisy(np.zeros(parameters), 0.7, z)
    assert asked == [(z * grid_sensitivity(parameters), parameters)]


def test_every_coordinate_of_a_step_pays_for_its_draw():
    assert sampler_error(1) == STATISTICAL_DISTANCE
    assert sampler_error(1000) == 1000 * STATISTICAL_DISTANCE
