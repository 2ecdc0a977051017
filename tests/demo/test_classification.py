"""Tests of `quee_hf.demo.classification`: what it tells is what the model does."""

import pytest
import torch
from tests.demo.conftest import noise

from quee_hf.blueprint import segment_costs
from quee_hf.demo.classification import classify, spending
from quee_hf.demo.settings import Setting
from quee_hf.errors import NotReadyError


@pytest.mark.parametrize("cost_lambda", [0.0, 0.1, 0.3, 5.0])
def test_equals_the_model(classifier, cost_lambda):
    model, lengths = classifier.model, set()
    for seed in range(6):
        image = noise(seed)
        answer = classify(classifier, image, Setting(cost_lambda=cost_lambda), top_k=3)
        with torch.inference_mode():
            expected = model(classifier.pixel_values([image]), cost_lambda=cost_lambda)
        scores = expected.logits.softmax(dim=-1)[0].sort(descending=True)
        assert list(answer.scores.values()) == pytest.approx(scores.values[:3].tolist())
        assert answer.path == tuple(level for level in expected.path[0].tolist() if level >= 0)
        assert answer.spending.cost == pytest.approx(float(expected.cost))
        assert answer.error == pytest.approx(float(expected.error_probability))
        assert answer.cost_lambda == cost_lambda
        assert len(answer.exits) == len(answer.path)
        assert answer.exits[-1].block == model.config.exit_blocks[int(expected.exit_index)]
        assert (answer.exits[-1].label, answer.exits[-1].score) == next(iter(answer.scores.items()))
        lengths.add(len(answer.path))
    assert cost_lambda != 0.1 or len(lengths) > 1


def test_a_forced_path_asks_no_gate(untrained):
    answer = classify(untrained, noise(1), Setting(path=(8, 6)))
    assert answer.path == (0, 1)
    (report,) = answer.exits
    assert (report.block, report.leave_error, report.aim_error) == (2, None, None)
    assert answer.error is answer.cost_lambda is None
    assert len(answer.scores) == 5


def test_lambda_needs_gates(untrained):
    with pytest.raises(NotReadyError, match="gates are not trained"):
        classify(untrained, noise(1), Setting(cost_lambda=0.1))


def test_classes_of_one_name_are_told_apart(classifier):
    answer = classify(classifier, noise(1), Setting(cost_lambda=0.1))
    assert set(answer.scores) == {"cat", "dog", "<b>", "crane (3)", "crane (4)"}
    assert sum(answer.scores.values()) == pytest.approx(1)


def test_equals_the_model_with_an_engine(classifier):
    model = classifier.model
    model.set_engine("onnxruntime")
    try:
        for seed in range(3):
            answer = classify(classifier, noise(seed), Setting(cost_lambda=0.1))
            with torch.inference_mode():
                expected = model(classifier.pixel_values([noise(seed)]), cost_lambda=0.1)
            assert len(answer.path) == int(expected.exit_index) + 1
            assert answer.error == pytest.approx(float(expected.error_probability))
            scores = expected.logits.softmax(dim=-1)[0].sort(descending=True).values
            assert list(answer.scores.values()) == pytest.approx(scores.tolist())
    finally:
        model.set_engine("torch")


class TestSpending:
    def test_of_the_whole_network_is_all(self, classifier):
        spent = spending(classifier.model, (0, 0, 0))
        table = segment_costs(classifier.config, "bitops")
        assert (spent.cost, spent.share) == (1, 1)
        assert spent.bitops == sum(row[0] for row in table)

    def test_falls_with_every_block_and_bit(self, classifier):
        whole, shorter, coarser = (
            spending(classifier.model, path) for path in ((0, 0, 0), (0, 0), (0, 0, 2))
        )
        assert max(shorter.bitops, coarser.bitops) < whole.bitops
        assert max(shorter.cost, coarser.cost) < whole.cost

    def test_milliseconds_are_those_of_the_smallest_batch_of_the_profile(self, classifier):
        # By hand, of `make_profile`: embedding 1, segments 1 and 2/2, exits 0.5, decisions 0.25, at batch 1 doubled.
        assert spending(classifier.model, (0, 1)).latency_ms == pytest.approx(2 * (1 + 1 + 1 + 1 + 0.5))

    def test_without_a_profile_time_is_not_known(self, untrained):
        assert spending(untrained.model, (0,)).latency_ms is None

    def test_by_flops_cost_and_bitops_differ(self, untrained):
        untrained.model.set_cost_model("flops")
        try:
            spent = spending(untrained.model, (2, 2, 2))
        finally:
            untrained.model.set_cost_model("bitops")
        assert spent.cost == 1
        assert spent.share == 0.5  # 4 bits for 8
