"""Numbers, time spans and values as text."""

import pytest

from fastgan.report.text import duration, figure, flatten, short


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-1.5, "−1.5"), (0.693147, "0.6931"), (3000, "3000"), (12345.6, "12,346"), (1.2e-6, "1.2e−6"),
     (1e-4, "1e−4"), (2.5e12, "2.5e12"), (float("nan"), "not finite"), (None, "not finite"), (True, "not finite")],
)  # fmt: skip
def test_figures(value: object, text: str):
    assert figure(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (3.21, "3.2 s"), (45, "45 s"), (60, "1 min"), (200, "3 min 20 s"),
     (7500, "2 h 5 min"), (273600, "3 d 4 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_counts_and_leaves():
    assert [short(n) for n in (823, 412_673, 1_268_737, 2.5e9)] == ["823", "413 k", "1.27 M", "2.5 G"]
    assert flatten({"a": {"b": 1, "c": {}}, "d": None}) == [("a.b", 1), ("a.c", {}), ("d", None)]
