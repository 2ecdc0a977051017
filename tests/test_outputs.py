"""Tests of `QuEEImageClassifierOutput`."""

import pickle
from collections import OrderedDict

import pytest
import torch
from torch.utils import _pytree

from quee_hf import QuEEImageClassifierOutput


@pytest.fixture
def output() -> QuEEImageClassifierOutput:
    return QuEEImageClassifierOutput(
        logits=torch.randn(3, 5), exit_index=torch.tensor([0, 1, 2]), cost=torch.rand(3)
    )


class TestItems:
    def test_what_is_set_is_an_item_in_the_order_of_fields(self, output):
        assert list(output) == ["logits", "exit_index", "cost"]
        assert output["logits"] is output.logits
        assert output[0] is output.logits
        assert [x is y for x, y in zip(output.to_tuple(), output.values(), strict=True)] == [True] * 3
        assert output.path is None
        with pytest.raises(KeyError):
            output["path"]

    def test_what_is_set_later_is_an_item(self, output):
        output.loss = torch.tensor(1.0)
        output["path"] = torch.zeros(3, 2)
        assert output["loss"] is output.loss
        assert output.path is output["path"]

    def test_other_attributes_are_no_items(self, output):
        output.note = "mine"
        assert "note" not in output

    def test_survives_pickling_and_trees(self, output):
        copies = pickle.loads(pickle.dumps(output)), _pytree.tree_map(torch.clone, output)
        for copied in copies:
            assert type(copied) is QuEEImageClassifierOutput
            assert isinstance(copied, OrderedDict)
            assert list(copied) == list(output)
            torch.testing.assert_close(copied.to_tuple(), output.to_tuple())


class TestSplit:
    def test_each_image_has_its_own(self, output):
        parts = list(output.split())
        assert [list(part) for part in parts] == [list(output)] * 3
        for i, part in enumerate(parts):
            torch.testing.assert_close(part.logits, output.logits[i : i + 1])
            assert part.exit_index.tolist() == [i]
        parts[0].logits.zero_()
        assert output.logits.ne(0).all()
        assert parts[1].logits.ne(0).all()

    def test_a_loss_is_of_the_batch_alone(self, output):
        output.loss = torch.tensor(1.0)
        assert [part.loss for part in output.split()] == [None] * 3
