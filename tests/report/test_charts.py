"""Charts: points land where the axes say, gaps are gaps, axes have round ticks that contain the data."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from fastgan.report.charts import (
    HEIGHT,
    WIDTH,
    Axis,
    Chart,
    chart,
    charts,
    path_of,
    round_step,
    span_of,
    step_axis,
    tick_labels,
    unit_of,
    value_axis,
)
from fastgan.report.render import _environment
from fastgan.report.series import POINTS, Series, series_by_group

ACROSS, UP = Axis(0.0, 100.0, [0.0, 100.0]), Axis(-1.0, 3.0, [-1.0, 3.0])


def make(name: str, values: list[float] | np.ndarray, every: int = 10) -> Series:
    return Series(name, every * np.arange(1.0, len(values) + 1), np.asarray(values, np.float64))


def paths(drawn: Chart) -> list[tuple[str, str]]:
    """(CSS classes, path) of all lines."""
    return [path for line in drawn.lines for path in line.paths]


def rendered(drawn: Chart) -> str:
    return str(_environment().get_template("parts.html.j2").module.chart(drawn))


def test_points_land_where_the_axes_say():
    lines, dots = path_of(np.array([0.0, 25.0, 100.0]), np.array([-1.0, 0.0, 3.0]), ACROSS, UP)
    assert lines == f"M0.0 {HEIGHT}.0L250.0 225.0L{WIDTH}.0 0.0"
    assert dots == ""


def test_gaps_break_the_line_and_lone_points_become_dots():
    steps, values = np.arange(0.0, 60.0, 10), np.array([1.0, 1.0, np.nan, 1.0, np.nan, np.nan])
    lines, dots = path_of(steps, values, ACROSS, UP)
    assert lines == "M0.0 150.0L100.0 150.0"
    assert dots == "M300.0 150.0h0"
    assert path_of(steps, np.full(6, np.nan), ACROSS, UP) == ("", "")


def test_a_chart_places_a_known_point():
    # Steps 0..100 fill the width; values 0..4 get an axis from 0 to 4: (50, 1) lies in the middle, three quarters down.
    series = Series("a", np.array([0.0, 50.0, 100.0]), np.array([0.0, 1.0, 4.0]))
    assert paths(chart("loss", [series])) == [("c0", "M0.0 300.0L500.0 225.0L1000.0 0.0")]


def test_ticks_lie_beside_their_values():
    html = rendered(chart("loss", [Series("a", np.array([0.0, 100.0]), np.array([0.0, 4.0]))]))
    ticks = re.findall(r'class="tick (.)" style="(\w+):([\d.]+)%"><span>([^<]*)<', html)
    assert ("y", "bottom", "25.00", "1") in ticks
    assert ("x", "left", "40.00", "40") in ticks


def test_legend_units_and_summary_for_screen_readers():
    html = rendered(chart("speed", [make("images_per_second", [700.0, 812.0, 800.0])]))
    assert '<li><span class="swatch c0"></span>images per second <b class="value">800</b></li>' in html
    assert '<div class="unit">images/s</div>' in html
    assert "images per second: last 800, lowest 700, highest 812." in html
    assert unit_of(["wait_ms", "work_ms"]) == "ms"
    assert unit_of(["wait_ms", "images_per_second"]) == unit_of(["plain"]) == ""


def test_a_single_point_and_nothing_finite():
    alone = chart("loss", [make("a", [2.0])])
    assert paths(alone) == [("c0 dot", "M500.0 150.0h0")]
    empty = chart("loss", [make("a", [np.nan, np.nan])])
    assert paths(empty) == []
    assert empty.notes == ["a: 2 values were not finite; the curve has gaps there."]
    assert empty.lines[0].value == "not finite"
    assert "<svg" in rendered(empty)


def test_many_points_are_drawn_twice_and_kept_within_bounds():
    rng = np.random.default_rng(4)
    drawn = chart("loss", [make("a", rng.normal(size=20_000))])
    (raw, faint), (bold, calm) = paths(drawn)
    assert (raw, bold) == ("c0 raw", "c0")
    assert faint.count("L") == calm.count("L") == POINTS - 1
    assert len(rendered(drawn)) < 40_000


def test_the_bold_line_is_smoothed_and_not_pulled_by_a_spike():
    values = np.random.default_rng(5).uniform(0.0, 1.0, 200)
    values[100] = 1e6
    raw, bold = (
        np.array([float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", d)])
        for _, d in paths(chart("loss", [make("a", values)]))
    )
    assert raw.min() == 0.0
    assert np.std(bold) < 0.5 * np.std(raw)
    assert bold[100] > HEIGHT / 4


def test_a_spike_is_named_and_does_not_flatten_the_curve():
    values = np.linspace(0.0, 1.0, 40)
    values[5] = 5000.0
    drawn = chart("loss", [make("a", values)])
    assert drawn.notes == ["a: 1 value lies beyond the axis, the farthest at 5000."]
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", paths(drawn)[0][1])]
    assert heights[5] == 0.0
    assert max(heights) - min(heights[6:]) > HEIGHT / 2


def test_the_readout_data_are_json_with_nulls():
    html = rendered(chart("loss", [make("a", [0.123456789, np.nan]), make("b", [1.0, 2.0], every=123_457)]))
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
    assert data == [
        {"steps": [10, 20], "values": [0.12346, None]},
        {"steps": [123_457, 246_914], "values": [1.0, 2.0]},
    ]


def test_one_chart_per_group_known_groups_first_metrics_apart():
    rows = [
        {"step": float(s), "zebra/x": 1, "loss/b": 2, "loss/a": 1, "metric/fid": 50, "metric/kid": 0.1} for s in (1, 2)
    ]
    found = charts(series_by_group(rows))
    assert [one.title for one in found] == ["Losses", "Metric", "Metric", "Zebra"]
    assert [len(one.lines) for one in found] == [2, 1, 1, 1]


def test_names_are_escaped_and_colors_run_out_gracefully():
    drawn = chart("<g>", [make(f"<n{i}>", [1.0, 2.0]) for i in range(9)])
    html = rendered(drawn)
    assert "<n" not in html
    assert "<g>" not in html.lower()
    assert "&lt;n0&gt;" in html
    assert paths(drawn)[8][0] == "c0 dashed"
    assert '<span class="swatch c0 dashed">' in html


@pytest.mark.parametrize("extreme", [1e99, -1e99, 5e-324])
def test_extreme_values_raise_no_warning(extreme: float):
    assert "<svg" in rendered(chart("loss", [make("a", [0.0, extreme] * 300)]))


# --- axes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "step"), [(1.0, 0.2), (1.1, 0.5), (3.0, 1.0), (40.0, 10.0), (10.0, 2.0), (0.004, 0.001), (5e6, 1e6)]
)
def test_round_steps(span: float, step: float):
    assert round_step(span, 5) == pytest.approx(step)


def test_a_value_axis_ends_on_ticks():
    axis = value_axis(0.13, 0.94)
    assert axis.ticks == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert (axis.low, axis.high) == (axis.ticks[0], axis.ticks[-1])
    assert axis.position(0.25) == pytest.approx(0.25)
    assert axis.position(7.0) == 1.0


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30, 1e90, 1e15 + 1])
def test_a_single_value_lies_inside(value: float):
    axis = value_axis(value, value)
    assert axis.low < value < axis.high
    assert 0.2 < axis.position(value) < 0.8
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
    assert alone.position(40.0) == 0.5


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
