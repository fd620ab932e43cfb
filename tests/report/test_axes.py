"""Axes: round ticks that hold the data, and labels that tell them apart."""

from __future__ import annotations

import numpy as np
import pytest

from fastgan.report.axes import round_step, span_of, step_axis, tick_labels, value_axis


@pytest.mark.parametrize(
    ("span", "step"), [(1.0, 0.2), (1.1, 0.5), (3.0, 1.0), (40.0, 10.0), (10.0, 2.0), (0.004, 0.001), (5e6, 1e6)]
)
def test_round_steps(span: float, step: float):
    assert round_step(span, 5) == pytest.approx(step)


def test_a_value_axis_ends_on_ticks():
    axis = value_axis(0.13, 0.94)
    assert axis.ticks == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert (axis.low, axis.high) == (axis.ticks[0], axis.ticks[-1])
    assert axis.place(0.25) == pytest.approx(0.25)
    assert axis.place(7.0) == 1.0


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30, 1e90, 1e15 + 1])
def test_a_single_value_lies_inside(value: float):
    axis = value_axis(value, value)
    assert axis.low < value < axis.high
    assert 0.2 < axis.place(value) < 0.8
    assert 3 <= len(axis.ticks) <= 12


def test_value_axes_hold_their_data():
    rng = np.random.default_rng(3)
    for _ in range(300):
        low, high = np.sort(rng.normal(size=2)) * 10.0 ** rng.integers(-6, 7)
        axis = value_axis(float(low), float(high))
        slack = 1e-6 * (axis.high - axis.low)
        assert axis.low <= low + slack
        assert axis.high >= high - slack
        assert len(axis.ticks) <= 7
        assert len(set(tick_labels(axis.ticks))) == len(axis.ticks)


def test_step_axes():
    axis = step_axis(0.0, 3000.0)
    assert axis.ticks == [0, 1000, 2000, 3000]
    assert (axis.low, axis.high) == (0, 3000)
    assert step_axis(1.0, 2.0).ticks == [1, 2]
    alone = step_axis(40.0, 40.0)
    assert alone.ticks == [40]
    assert alone.place(40.0) == 0.5


def test_spikes_are_left_out_and_steady_lines_are_not():
    calm = np.linspace(0.0, 1.0, 100)
    assert span_of([calm]) == (0.0, 1.0)
    spiked = np.append(calm, 500.0)
    low, high = span_of([spiked])
    assert low == 0.0
    assert 1.0 < high < 2.0
    assert span_of([calm, np.array([7.0])]) == (0.0, 7.0)
    assert span_of([np.array([1.0, 500.0])]) == (1.0, 500.0)


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0.0, 0.5, 1.0], ["0", "0.5", "1.0"]),
        ([-1.0, 0.0, 1.0], ["−1", "0", "1"]),
        ([0.0, 20000.0], ["0", "20k"]),
        ([0.0, 5e5, 1e6], ["0", "0.5M", "1.0M"]),
        ([0.0, 2e-5, 4e-5], ["0", "2e−5", "4e−5"]),
        ([0.1 * 3, 0.4], ["0.3", "0.4"]),
        ([40.0], ["40"]),
    ],
)
def test_labels(ticks: list[float], labels: list[str]):
    assert tick_labels(ticks) == labels
