"""In a notebook the bar is live and the newest sample grid replaces the one before; IPython is a stand-in here."""

import sys
from types import SimpleNamespace

import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan._util.notebook import in_notebook
from fastgan._util.progress import Progress


@pytest.fixture
def displays(monkeypatch):
    """What a notebook's kernel shows: ("new" or "update", PNG bytes)."""
    found = []

    class Handle:
        def update(self, image):
            found.append(("update", image.data))

    def display(image, display_id):
        assert display_id is True
        found.append(("new", image.data))
        return Handle()

    shell = SimpleNamespace(kernel=object())
    own = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", own)
    image = lambda data, format: SimpleNamespace(data=data)  # noqa: E731
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(Image=image, display=display))
    return found


def images():
    while True:
        yield torch.rand(4, 1, 8, 8) * 2 - 1


def trained(out=None):
    networks = models.build("mlp", resolution=8, channels=1, latent=4, width=8)
    flags = {"steps": 6, "batch": 4, "latent": 4, "compile": "off", "log_every": 2, "sample_every": 2}
    Trainer(*networks, config=Config.from_flags(**flags), out=out).fit(images())


def test_the_newest_grid_of_a_run_is_shown(displays, tmp_path):
    trained(tmp_path / "run")
    assert [kind for kind, _ in displays] == ["new", "update", "update"]
    grids = [tmp_path / "run" / "samples" / f"fixed-{step:08d}.png" for step in (2, 4, 6)]
    assert [data for _, data in displays] == [path.read_bytes() for path in grids]


def test_a_run_without_a_directory_shows_them_too(displays):
    trained()
    assert [kind for kind, _ in displays] == ["new", "update", "update"]
    assert all(data.startswith(b"\x89PNG") for _, data in displays)


def test_the_bar_is_live_in_a_notebook_only(displays, monkeypatch):
    assert in_notebook()
    assert Progress("training", 3)._live
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not in_notebook()  # IPython in a terminal
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()
    assert not Progress("training", 3)._live
