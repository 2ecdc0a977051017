"""Tests of `scaled_exit_losses` against a loop."""

import math

import pytest
import torch
from tests.reference.training import scaled_loss
from tests.tiny import generator

from quee_hf.exits.loss import cosine_distillation_losses, scaled_exit_losses, soft_distillation_losses


@pytest.mark.parametrize(("num_images", "num_exits", "num_labels"), [(1, 1, 2), (4, 3, 5), (3, 12, 2)])
def test_equals_a_loop(num_images, num_exits, num_labels):
    logits = 3 * torch.randn(num_images, num_exits, num_labels, generator=generator(0)).double()
    labels = torch.randint(num_labels, (num_images,), generator=generator(1))
    expected = scaled_loss(logits.numpy(), labels.tolist())
    assert scaled_exit_losses(logits, labels).mean().item() == pytest.approx(expected, rel=1e-12)


def test_earlier_exits_weigh_more_by_hand():
    # Right with certainty costs 0; undecided between two classes costs ln 2 at that exit.
    sure, torn = [0.0, 1e4], [0.0, 0.0]
    label = torch.tensor([1])
    for exit_index, factor in enumerate([3, 2, 1]):
        logits = torch.tensor([[torn if e == exit_index else sure for e in range(3)]])
        assert scaled_exit_losses(logits, label).mean().item() == pytest.approx(factor * 0.6931472)


def test_does_not_depend_on_the_order_of_images():
    logits, labels = torch.randn(6, 3, 4, generator=generator(0)).double(), torch.tensor([0, 1, 2, 3, 0, 1])
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert scaled_exit_losses(logits[order], labels[order]).mean().item() == pytest.approx(
        scaled_exit_losses(logits, labels).mean().item(), rel=1e-12
    )


class TestCosineDistillation:
    def test_by_hand(self):
        teacher = torch.tensor([[3.0, 4.0]])
        outputs = torch.tensor([[[6.0, 8.0], [4.0, -3.0], [-3.0, -4.0]]])  # along it, across, against it
        assert cosine_distillation_losses(outputs, teacher).item() == pytest.approx(3 * 0 + 2 * 1 + 1 * 2)

    def test_lengths_do_not_matter(self):
        outputs = torch.randn(4, 3, 6, generator=generator(0))
        teacher = torch.randn(4, 6, generator=generator(1))
        torch.testing.assert_close(
            cosine_distillation_losses(5 * outputs, 2 * teacher),
            cosine_distillation_losses(outputs, teacher),
        )


class TestSoftDistillation:
    def test_by_hand(self):
        # Softened by T = 2: the teacher says (1/2, 1/2), the exits (1/2, 1/2) and (3/4, 1/4).
        teacher = torch.zeros(1, 2)
        logits = torch.tensor([[[0.0, 0.0], [2 * math.log(3), 0.0]]])
        divergence = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
        assert soft_distillation_losses(logits, teacher).item() == pytest.approx(4 * divergence)

    def test_is_least_where_both_agree(self):
        teacher = torch.randn(5, 4, generator=generator(0))
        logits = teacher[:, None].repeat(1, 3, 1).requires_grad_()
        loss = soft_distillation_losses(logits, teacher).mean()
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert logits.grad.abs().max() < 1e-6
