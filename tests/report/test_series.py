"""Series: what is plotted, what is a gap, and what thinning and smoothing keep."""

from __future__ import annotations

import numpy as np

from fastgan.report.series import POINTS, Series, series_by_group, smooth, thin


def make(values: list[float] | np.ndarray) -> Series:
    values = np.asarray(values, np.float64)
    return Series("x", np.arange(1.0, len(values) + 1), values)


def test_groups_names_and_gaps():
    rows = [
        {"step": 1.0, "images": 64, "loss/a": 1, "loss/b": 2.5,
         "note/text": "no", "flag/on": True, "/odd": 1, "odd/": 1},
        {"step": 2.0, "loss/a": None, "fid/deep/name": 3},
        {"step": 3.0, "loss/a": float("nan"), "loss/b": float("-inf")},
        {"step": 4.0, "loss/a": 10**400, "loss/b": 1e200},
    ]  # fmt: skip
    groups = series_by_group(rows)
    assert list(groups) == ["loss", "fid"]
    a, b = groups["loss"]
    assert (a.name, b.name) == ("a", "b")
    np.testing.assert_array_equal(a.steps, [1, 2, 3, 4])
    np.testing.assert_array_equal(a.values, [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(b.steps, [1, 3, 4])
    np.testing.assert_array_equal(b.values, [2.5, np.nan, np.nan])
    assert groups["fid"][0].name == "deep/name"


def test_short_series_are_not_thinned():
    series = make(np.arange(POINTS))
    assert thin(series) is series


def test_thinning_averages_neighbors():
    thinned = thin(make([1.0, 3.0, 5.0, 7.0, np.nan, 11.0, np.nan, np.nan]), limit=4)
    np.testing.assert_array_equal(thinned.steps, [1.5, 3.5, 5.5, 7.5])
    np.testing.assert_array_equal(thinned.values, [2.0, 6.0, 11.0, np.nan])


def test_thinning_keeps_to_the_limit_and_to_the_mean():
    rng = np.random.default_rng(1)
    for n in (401, 799, 12345):
        thinned = thin(make(rng.normal(size=n)))
        assert len(thinned.steps) == len(thinned.values) == POINTS
        assert np.all(np.diff(thinned.steps) > 0)
    values = rng.normal(size=4000)
    np.testing.assert_allclose(thin(make(values)).values, values.reshape(400, 10).mean(1))


def test_smoothing_keeps_a_constant_and_the_gaps():
    values = np.full(100, 3.0)
    values[40:44] = np.nan
    calm = smooth(values)
    np.testing.assert_array_equal(np.isnan(calm), np.isnan(values))
    np.testing.assert_allclose(calm[~np.isnan(calm)], 3.0)


def test_smoothing_calms_without_lag():
    rng = np.random.default_rng(2)
    t = np.linspace(0, 1, 300)
    noisy = 5 * t + rng.normal(size=300)
    calm = smooth(noisy)
    assert len(calm) == 300
    inner = slice(20, -20)
    assert np.std((calm - 5 * t)[inner]) < 0.4 * np.std((noisy - 5 * t)[inner])
    assert abs(np.mean((calm - 5 * t)[inner])) < 0.05


def test_smoothing_short_series():
    for n in range(1, 8):
        assert smooth(np.ones(n)).shape == (n,)
