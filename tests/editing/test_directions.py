import pytest
import torch

from fastgan.editing import Directions, factorization, from_examples, mixed, principal_components
from fastgan.editing.styles import w_of_seeds
from fastgan.errors import UsageError
from fastgan.runtime.generate import latent


def test_w_of_seeds_are_those_of_run(conditional):
    w = w_of_seeds(conditional, [5, 301])
    z = torch.from_numpy(latent(301, (6,)))[None]
    torch.testing.assert_close(w[1:], conditional.mapping(z, torch.tensor([301 % 3])))
    half = w_of_seeds(conditional, [5], label=2, psi=0.5)
    z = torch.from_numpy(latent(5, (6,)))[None]
    torch.testing.assert_close(half, conditional.mapping(z, torch.tensor([2]), truncation_psi=0.5))
    with pytest.raises(UsageError, match="label: expected a number from 0 to 2, got 3"):
        w_of_seeds(conditional, [0], label=3)


@pytest.mark.parametrize("layers", [None, [1, 2]])
def test_factorization_finds_the_singular_vectors(tiny, layers):
    weights = [tiny.synthesis.first, tiny.synthesis.second, tiny.synthesis.third]
    stacked = torch.cat([weights[i].affine.weight for i in layers or [0, 1, 2]]).double()
    _, _, vectors = torch.linalg.svd(stacked)
    found = factorization(tiny, layers, count=3)
    cosines = (found.vectors.double() * vectors[:3]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert found.layers == tuple(layers or [0, 1, 2])
    w = w_of_seeds(tiny, range(1000))[:, 0]
    torch.testing.assert_close(found.scales, (w @ found.vectors.T).std(0), rtol=1e-4, atol=1e-6)


def test_principal_components_are_those_of_the_samples(tiny):
    w = w_of_seeds(tiny, range(500))[:, 0].double()
    _, values, vectors = torch.linalg.svd(w - w.mean(0))
    found = principal_components(tiny, count=2, samples=500)
    torch.testing.assert_close(found.scales, (values[:2] / 499**0.5).float(), rtol=1e-4, atol=1e-6)
    assert ((found.vectors.double() * vectors[:2]).sum(1).abs() > 1 - 1e-5).all()


def test_from_examples_moves_one_mean_to_the_other(tiny):
    positive, negative = w_of_seeds(tiny, [1, 2, 3]), w_of_seeds(tiny, [4, 5])
    found = from_examples(tiny, positive, negative)
    moved = found.moved(negative.mean(0, keepdim=True), 0, [1.0])
    torch.testing.assert_close(moved, positive.mean(0, keepdim=True), rtol=1e-4, atol=1e-5)


def test_only_the_chosen_layers_move(tiny):
    w = w_of_seeds(tiny, [0])
    directions = Directions(torch.eye(5)[:2], torch.tensor([2.0, 3.0]), (1,), "axes")
    moved = directions.moved(w, 1, [-1.0, 0.0, 0.5])
    assert torch.equal(moved[1], w[0])
    expected = w[0].clone()
    expected[1, 1] += 1.5
    torch.testing.assert_close(moved[2], expected)


def test_mixing_takes_layers_of_the_column(tiny):
    rows, columns = w_of_seeds(tiny, [0, 1]), w_of_seeds(tiny, [2, 3, 4])
    grid = mixed(tiny, rows, columns, [0, 2]).unflatten(0, (2, 3))
    assert torch.equal(grid[1, 2, 1], rows[1, 1])
    assert torch.equal(grid[1, 2, [0, 2]], columns[2, [0, 2]])
    coarse = mixed(tiny, rows, columns).unflatten(0, (2, 3))
    assert torch.equal(coarse[0, 1, 0], columns[1, 0])
    assert torch.equal(coarse[0, 1, 1:], rows[0, 1:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: factorization(g, [3]), "layers: expected numbers from 0 to 2, got 3"),
        (lambda g: factorization(g, []), "layers: expected at least one number"),
        (lambda g: factorization(g, count=0), "count: expected a number >= 1, got 0"),
        (lambda g: principal_components(g, samples=1), "samples: expected a number >= 2"),
        (lambda g: from_examples(g, torch.zeros(0, 3, 5), torch.zeros(1, 3, 5)), "positive: expected at least one"),
        (lambda g: from_examples(g, torch.ones(1, 3, 5), torch.ones(1, 3, 5)), "positive: .* the mean of the negative"),
        (lambda g: from_examples(g, torch.ones(1, 3, 4), torch.ones(1, 3, 5)), r"positive: expected \[N, 3, 5\]"),
        (lambda g: mixed(g, torch.zeros(1, 3, 5), torch.zeros(1, 2, 5)), r"columns: expected \[N, 3, 5\]"),
        (lambda g: factorization(g).moved(torch.zeros(1, 3, 5), 9, [1.0]), "direction: expected a number from 0 to 4"),
        (lambda g: factorization(g).moved(torch.zeros(2, 3, 5), 0, [1.0]), r"w: expected one, .* got \[2, 3, 5\]"),
    ],
)
def test_bad_input_is_named(tiny, call, message):
    with pytest.raises(UsageError, match=message):
        call(tiny)
