"""Tests of `score_paths`: each path where it passes a gate, and memory that grows with the number of paths."""

import pytest
import torch
from tests.tiny import NUM_LABELS, VARIANTS, generator, images, quantize_fast, randomize, wrap
from torch.utils._python_dispatch import TorchDispatchMode

from quee_hf.execution.scoring import score_paths
from quee_hf.exits.reading import ExitReading


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that is made."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.untyped_storage().nbytes() // result.element_size())
        return result


def model_of(**fields):
    model = wrap(VARIANTS["vit"].build(), levels=["fp32", "bf16", 8, 6], **fields)
    randomize(model.gates, seed=2)
    return model


def summaries_of(model, count):
    logits = torch.randn(count, len(model.paths), NUM_LABELS, generator=generator(0))
    return model.summarize(ExitReading(logits, torch.rand(logits.shape[:2], generator=generator(1))))


@pytest.mark.parametrize("features", ["confidence", "history", "probabilities"])
@pytest.mark.parametrize("first_level", ["highest", "any"])
def test_each_path_is_scored_from_the_exits_on_its_way(features, first_level):
    model = model_of(gate_features=features, first_level=first_level)
    summaries, tree = summaries_of(model, 3), model.router.tree
    for gate in model.gates.numbers:
        nodes, scores = score_paths(model.gates, model.router, gate, summaries)
        assert [tree.paths[node] for node in nodes] == [path for path in model.paths if len(path) >= gate]
        for column, node in enumerate(nodes.tolist()):
            passed = [tree.index[tree.paths[node][: length + 1]] for length in range(gate)]
            alone = model.gates.logits(gate, summaries[:, passed])
            torch.testing.assert_close(scores[:, column], alone[:, column])


def test_lra_gates_score_leaving_on_the_most_exact_path():
    model = model_of(gate_type="lra")
    summaries, exact = summaries_of(model, 3), model.router.tree.exact_nodes
    for gate in (1, 2):
        nodes, scores = score_paths(model.gates, model.router, gate, summaries)
        assert nodes.tolist() == [exact[gate - 1]]
        right = model.gates.logits(gate, summaries[:, exact[:gate]])
        torch.testing.assert_close(scores[:, 0], -right)


class TestManyPaths:
    """12 exits and 4 levels: 1365 paths do not increase in precision."""

    @pytest.fixture(scope="class")
    @staticmethod
    def deep():
        blocks = VARIANTS["vit"].build(12)
        model = wrap(blocks, exit_blocks=list(range(1, 13)), levels=[8, 6, 5, 4], max_paths=1365)
        quantize_fast(model)
        randomize(model.gates, seed=2)
        model.config.trained_parts = ["gates", "heads"]
        return model

    def test_all_are_known_and_sampled_sets_are_closed(self, deep):
        assert len(deep.paths) == 1365
        fewer = wrap(VARIANTS["vit"].build(12), exit_blocks=list(range(1, 13)), levels=[8, 6, 5, 4])
        assert len(fewer.paths) == fewer.config.max_paths
        assert all(path[:-1] in fewer.paths for path in fewer.paths if len(path) > 1)

    def test_scoring_takes_memory_for_paths_not_for_pairs_of_nodes_and_paths(self, deep):
        summaries = summaries_of(deep, 2)
        for gate in deep.gates.numbers:
            with LargestTensor() as largest:
                nodes, _ = score_paths(deep.gates, deep.router, gate, summaries)
            seen = 2 * len(deep.router.tree.at_depth(gate)) * gate * summaries.shape[-1]
            assert largest.size <= max(2 * len(nodes) * deep.config.gate_hidden_size, seen)

    def test_gates_grow_by_a_row_for_each_path_and_no_more(self, deep):
        few = wrap(VARIANTS["vit"].build(12), exit_blocks=list(range(1, 13)), levels=[8, 6, 5, 4])
        sizes = [sum(part.numel() for part in model.gates.parameters()) for model in (few, deep)]
        assert sizes[0] == sizes[1]

    def test_routes(self, deep):
        with torch.no_grad():
            output = deep(images(4), cost_lambda=torch.tensor([0.0, 0.05, 0.3, torch.inf]))
        assert output.path[-1].tolist() == [0] + 11 * [-1]
        assert output.cost.max() <= 1
