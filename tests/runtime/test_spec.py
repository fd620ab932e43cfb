from types import SimpleNamespace

import pytest

from fastgan.errors import ExportError, UsageError
from fastgan.runtime.spec import Spec


def test_the_spec_of_a_network():
    assert Spec.of(SimpleNamespace(latent=64)) == Spec("latent", latent_shape=(64,))
    assert Spec.of(SimpleNamespace(), (3, 4)) == Spec("latent", latent_shape=(3, 4))
    upscaler = SimpleNamespace(scale=4, channels=3, multiple=2, reach=18)
    assert Spec.of(upscaler) == Spec("image", scale=4, multiple=2, reach=18, range=(0.0, 1.0))
    with pytest.raises(UsageError, match="network: expected one with the attribute `latent`"):
        Spec.of(SimpleNamespace(scale=2))


def test_json_round_trip():
    spec = Spec("image", channels=1, scale=2, reach=7, range=(0.0, 1.0))
    assert Spec.from_json(spec.to_json(step=5)) == (spec, {"step": 5})
    older = '{"latent_shape": [8], "range": [-1.0, 1.0], "step": 3}'
    assert Spec.from_json(older) == (Spec("latent", latent_shape=(8,)), {"step": 3})


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "sound"}', '{"kind": {}}'])
def test_other_texts(text):
    with pytest.raises(ExportError, match="model: "):
        Spec.from_json(text)
