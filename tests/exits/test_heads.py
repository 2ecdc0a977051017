"""Tests of `quee_hf.exits.heads`."""

import math

import pytest
import torch
from tests.tiny import generator
from torch import nn

from quee_hf.exits.heads import HEADS, HeadSpec, cosine_logits


def spec(**overrides):
    fields = {
        "hidden_size": 6,
        "num_outputs": 4,
        "own_pooling": "cls_and_mean",
        "num_prefix_tokens": 2,
        "has_bias": True,
        "head_hidden_size": 5,
    }
    return HeadSpec(**{**fields, **overrides})


@pytest.mark.parametrize("head_type", HEADS)
@pytest.mark.parametrize("own_pooling", ["cls", "cls_and_mean"])
def test_every_head_maps_tokens_to_outputs_and_never_reads_registers(head_type, own_pooling):
    head = HEADS[head_type](spec(own_pooling=own_pooling)).eval()
    tokens = torch.randn(3, 7, 6, generator=generator(0))
    outputs = head(head.select(tokens))
    assert outputs.shape == (3, 4)
    tokens[:, 1] = torch.nan  # the second prefix token: a register
    assert torch.equal(head(head.select(tokens)), outputs)


@pytest.mark.parametrize("head_type", HEADS)
def test_heads_can_be_trained(head_type):
    head = HEADS[head_type](spec())
    head(head.select(torch.randn(3, 7, 6))).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_linear_head_is_the_backbones_own_kind():
    assert isinstance(HEADS["linear"](spec()).network, nn.Linear)
    assert HEADS["linear"](spec()).network.in_features == 12
    assert HEADS["linear"](spec(own_pooling="cls")).network.in_features == 6
    assert HEADS["linear"](spec(has_bias=False)).network.bias is None


def test_mlp_head_is_two_layers_on_what_a_linear_head_reads():
    head, linear = HEADS["mlp"](spec()), HEADS["linear"](spec())
    tokens = torch.randn(2, 5, spec().hidden_size)
    pooled = head.select(tokens)
    assert torch.equal(pooled, linear.select(tokens))
    first, _, second = head.network
    expected = second(torch.nn.functional.gelu(first(pooled)))
    torch.testing.assert_close(head(pooled), expected)
    assert head(pooled).shape == linear(pooled).shape


def test_ssa_head_is_two_layers_on_the_mean_patch():
    head = HEADS["ssa"](spec())
    tokens = torch.randn(3, 7, 6, generator=generator(0))
    first, _, second = head.network
    inner = first(tokens[:, 2:].mean(dim=1))
    gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(head(head.select(tokens)), second(gelu))


def test_cls_head_is_an_ssa_head_on_the_class_token():
    head, other = HEADS["cls"](spec()), HEADS["ssa"](spec())
    other.load_state_dict(head.state_dict())  # of the same size
    tokens = torch.randn(3, 7, 6, generator=generator(0))
    assert torch.equal(head.select(tokens), tokens[:, 0])
    assert torch.equal(head(tokens[:, 0]), other(tokens[:, 0]))


def test_attention_head_reads_the_class_token_the_mean_patch_and_what_queries_find():
    head = HEADS["attention"](spec()).eval()
    tokens = torch.randn(3, 7, 6, generator=generator(0))
    kept, attention = tokens[:, [0, 2, 3, 4, 5, 6]], head.attention
    found = []
    for image in kept:
        parts = [image[0], image[1:].mean(dim=0)]
        for query in attention.queries.T:
            weights = (attention.keys(image) @ query).exp()
            parts.append((weights[:, None] * attention.values(image)).sum(dim=0) / weights.sum())
        found.append(torch.cat(parts))
    pooled = head.pool(head.select(tokens))
    torch.testing.assert_close(pooled, torch.stack(found))
    torch.testing.assert_close(head(head.select(tokens)), head.network(pooled))


def test_attention_head_does_not_depend_on_the_order_of_patches():
    head = HEADS["attention"](spec()).eval()
    tokens = torch.randn(3, 7, 6, generator=generator(0))
    torch.testing.assert_close(head(head.select(tokens[:, [0, 1, 6, 3, 5, 2, 4]])), head(head.select(tokens)))


class TestCosineLogits:
    def test_by_hand(self):
        classes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]])
        logits = cosine_logits(torch.tensor([[3.0, 4.0]]), classes, logit_scale=10.0)
        # 10 * (0.6, 0.8, -0.36 + 0.64); four roundings of float32 at magnitude 10.
        torch.testing.assert_close(logits, torch.tensor([[6.0, 8.0, 2.8]]), rtol=0, atol=40 * 2**-24)

    def test_length_of_the_embedding_does_not_matter(self):
        embedding = torch.randn(5, 8, generator=generator(0))
        classes = torch.randn(3, 8, generator=generator(1))
        # A power of two scales exactly, and the logits with it.
        assert torch.equal(
            cosine_logits(embedding, classes, 7.0), cosine_logits(64 * embedding, classes, 7.0)
        )

    def test_half_precision_is_compared_in_float32(self):
        embedding = torch.randn(5, 8, generator=generator(0)).bfloat16()
        classes = torch.randn(3, 8, generator=generator(1)).bfloat16()
        logits = cosine_logits(embedding, classes, 7.0)
        assert logits.dtype == torch.float32
        assert torch.equal(logits, cosine_logits(embedding.float(), classes.float(), 7.0))
