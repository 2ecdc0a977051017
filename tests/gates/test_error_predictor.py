"""Tests of `ErrorPredictor`, Eq. (14) and (15): a naive two-layer network on `u || embedded code`."""

import pytest
import torch
from tests.reference.gates import code, error_probability
from tests.tiny import generator, randomize

from quee_hf.gates.error_predictor import ErrorPredictor, encode_paths
from quee_hf.paths import PathRules

LEVELS = [8, 6, 4]
PATHS = PathRules(3, 3).enumerate()


def test_codes_by_hand():
    codes = encode_paths([(0,), (0, 1), (0, 1, 2)], [8, 4, 2], num_exits=3)
    assert codes == [[1, 0, 0, 1 / 3], [1, 0.5, 0, 2 / 3], [1, 0.5, 0.25, 1]]
    assert encode_paths([(0, 1)], ["fp32", "bf16"], num_exits=2) == [[1, 0.5, 1]]


def test_codes_equal_a_loop_and_tell_all_paths_apart():
    codes = encode_paths(PATHS, LEVELS, num_exits=3)
    assert codes == [code([LEVELS[level] for level in path], 3, 8) for path in PATHS]
    assert len(set(map(tuple, codes))) == len(PATHS)


@pytest.fixture
def predictor():
    predictor = ErrorPredictor(14, encode_paths(PATHS, LEVELS, 3), hidden_size=9, embedding_size=4).double()
    randomize(predictor)
    return predictor


def test_equals_a_naive_network(predictor):
    u = torch.rand(2, 6, 14, generator=generator(0)).double()
    probabilities = predictor(u).sigmoid()
    assert probabilities.shape == (2, 6, len(PATHS))
    weights = {name: parameter.detach().numpy() for name, parameter in predictor.named_parameters()}
    for i in range(2):
        for j in range(6):
            for k, path_code in enumerate(predictor.path_codes.tolist()):
                expected = error_probability(u[i, j].tolist(), path_code, weights)
                assert probabilities[i, j, k].item() == pytest.approx(expected, rel=1e-12)


def test_with_owners_each_path_is_scored_by_one_node(predictor):
    u = torch.rand(2, 6, 14, generator=generator(0)).double()
    owners = torch.randint(6, (len(PATHS),), generator=generator(1))
    everything, picked = predictor(u), predictor(u, owners)
    expected = torch.stack([everything[:, node, path] for path, node in enumerate(owners)], dim=1)
    torch.testing.assert_close(picked, expected)


def test_every_weight_matters(predictor):
    predictor(torch.rand(5, 14, generator=generator(0)).double()).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in predictor.parameters())


def test_before_the_first_segment_all_images_look_the_same():
    predictor = ErrorPredictor(0, encode_paths(PATHS, LEVELS, 3), hidden_size=9, embedding_size=4)
    randomize(predictor)
    logits = predictor(torch.rand(5, 7, generator=generator(0)))
    assert logits.shape == (5, len(PATHS))
    assert torch.equal(logits, logits[:1].expand(5, -1))
    assert len(logits[0].unique()) > 1  # but paths do not
    with torch.no_grad():
        hidden = predictor.path(predictor.embed(predictor.path_codes)).relu()
        assert torch.equal(logits[0], predictor.output(hidden).squeeze(-1))


def test_codes_are_not_stored():
    predictor = ErrorPredictor(14, encode_paths(PATHS, LEVELS, 3), 9, 4)
    assert "path_codes" not in predictor.state_dict()
