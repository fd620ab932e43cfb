"""Curves: points land where the axes say, gaps are gaps, and every number has its place."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from fastgan.report.axes import Axis
from fastgan.report.curves import HEIGHT, WIDTH, chart, charts, path_of, unit_of
from fastgan.report.series import POINTS, Series, series_by_group

ACROSS, UP = Axis(0.0, 100.0, [0.0, 100.0]), Axis(-1.0, 3.0, [-1.0, 3.0])


def make(name: str, values: list[float] | np.ndarray, every: int = 10) -> Series:
    return Series(name, every * np.arange(1.0, len(values) + 1), np.asarray(values, np.float64))


def paths(html: str) -> list[tuple[str, str]]:
    return re.findall(r'<path class="([^"]*)" d="([^"]*)"/>', html)


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
    html = chart("loss", [Series("a", np.array([0.0, 100.0]), np.array([0.0, 4.0]))])
    ticks = re.findall(r'class="tick (.)" style="(\w+):([\d.]+)%"><span>([^<]*)<', html)
    assert ("y", "bottom", "25.00", "1") in ticks
    assert ("x", "left", "40.00", "40") in ticks


def test_legend_units_and_spoken_summary():
    html = chart("speed", [make("images_per_second", [700.0, 812.0, 800.0])])
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
    assert "a: 2 values were not finite" in empty
    assert '<b class="value">not finite</b>' in empty


def test_many_points_are_drawn_twice_and_kept_within_bounds():
    rng = np.random.default_rng(4)
    html = chart("loss", [make("a", rng.normal(size=20_000))])
    (raw, faint), (bold, calm) = paths(html)
    assert (raw, bold) == ("c0 raw", "c0")
    assert faint.count("L") == calm.count("L") == POINTS - 1
    assert len(html) < 40_000


def test_the_bold_line_is_the_calm_one_and_no_spike_drags_it():
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
    html = chart("loss", [make("a", values)])
    assert "a: 1 value lies beyond the axis, the farthest at 5000." in html
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", paths(html)[0][1])]
    assert heights[5] == 0.0
    assert max(heights) - min(heights[6:]) > HEIGHT / 2


def test_the_readout_data_are_json_with_nulls():
    html = chart("loss", [make("a", [0.123456789, np.nan]), make("b", [1.0, 2.0], every=123_457)])
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
    assert data == [
        {"steps": [10, 20], "values": [0.12346, None]},
        {"steps": [123_457, 246_914], "values": [1.0, 2.0]},
    ]


def test_one_chart_per_group_known_groups_first_metrics_apart():
    rows = [
        {"step": float(s), "zebra/x": 1, "loss/b": 2, "loss/a": 1, "metric/fid": 50, "metric/kid": 0.1} for s in (1, 2)
    ]
    html = charts(series_by_group(rows))
    assert re.findall(r"<h3>([^<]*)</h3>", html) == ["Losses", "Metric", "Metric", "Zebra"]
    assert html.count('class="swatch') == 5


def test_names_are_escaped_and_colors_run_out_gracefully():
    html = chart("<g>", [make(f"<n{i}>", [1.0, 2.0]) for i in range(9)])
    assert "<n" not in html
    assert "<g>" not in html.lower()
    assert "&lt;n0&gt;" in html
    assert paths(html)[8][0] == "c0 dashed"


@pytest.mark.parametrize("extreme", [1e99, -1e99, 5e-324])
def test_extreme_values_raise_no_warning(extreme: float):
    assert "<svg" in chart("loss", [make("a", [0.0, extreme] * 300)])
