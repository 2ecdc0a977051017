"""Tests of what is special to the engine "torch_int8"."""

import warnings

import pytest
import torch
from tests.tiny import VARIANTS, images, quantize_fast, wrap

from quee_hf.execution.engines import torch_int8


@pytest.fixture
def model():
    model = wrap(VARIANTS["vit"].build(), levels=["fp32", "bf16", 8, 6])
    quantize_fast(model)
    return model.eval()


@torch.inference_mode()
def run(model, *path):
    return model(images(2), path=list(path)).logits


def test_only_what_runs_is_packed(model):
    model.set_engine("torch_int8")
    run(model, "fp32", 8)
    assert list(model._engine._programs) == [(1, 8)]
    run(model, "bf16", 8, 6)
    assert set(model._engine._programs) == {(0, "bf16"), (1, 8), (2, 6)}
    model.load_state_dict(model.state_dict())
    assert not model._engine._programs


def test_packing_leaves_nothing_unpacked_in_the_model(model):
    model.set_engine("torch_int8")
    run(model, 8, 8, 8)
    assert not any(getattr(module, "_prepared", None) for module in model.modules())


def test_gradients_stop_before_a_segment(model):
    model.set_engine("torch_int8")
    hidden = model.embed(images(2)).requires_grad_()
    for level in ("fp32", "bf16", 8):
        assert not model._engine.run_segment(0, level, hidden).requires_grad


def test_what_is_packed_in_inference_mode_serves_outside_it(model):
    model.set_engine("torch_int8")
    expected = run(model, 8, 8, 8)
    found = model(images(2), path=[8, 8, 8]).logits
    torch.testing.assert_close(found, expected)


def test_a_slow_processor_is_said_once(model, monkeypatch):
    monkeypatch.setattr(torch_int8, "has_fast_int8", lambda: False)
    torch_int8._warn_of_speed.cache_clear()
    with pytest.warns(UserWarning, match="will not be fast"):
        model.set_engine("torch_int8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_engine("torch_int8")
    assert run(model, 8, 8, 8).isfinite().all()
