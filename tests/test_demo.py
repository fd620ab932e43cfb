"""An independent classifier must find every class, with confidence, in the samples of the demo preset."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "demo_seeds.py"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
def test_demo_shows_every_class_clearly(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("demo_seeds", SCRIPT)
    demo_seeds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo_seeds)

    network, own = demo_seeds.trained_classifier()
    assert own >= 0.88
    trainer = demo_seeds.demo(seed=0, out=tmp_path / "run")
    classes = demo_seeds.class_distribution(network, demo_seeds.samples(trainer), own)
    with capsys.disabled():
        print(f"\ndemo: {classes.describe()}")
    assert classes.share.min() >= 0.05, classes.describe()
    assert classes.confidence >= 0.74, classes.describe()
