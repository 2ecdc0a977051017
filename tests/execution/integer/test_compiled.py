"""Tests of compiled blocks: those of CUDA, compiled for the CPU."""

import pytest
import torch
from tests.tiny import VARIANTS, images, wrap
from torch._dynamo.testing import CompileCounterWithBackend

from quee_hf import quantize
from quee_hf.execution.integer import blocks as blocks_module
from quee_hf.execution.integer import linear as linear_module
from quee_hf.execution.integer.blocks import PreparedBlocks
from quee_hf.execution.integer.compiled import CompiledRun, block_runner, run_as_it_is
from quee_hf.execution.integer.products import IntMmProduct

LEVELS = ["bf16", 8, 6]


@pytest.fixture(autouse=True)
def products_of_cuda(monkeypatch):
    monkeypatch.setattr(linear_module, "make_product", IntMmProduct)
    torch.compiler.reset()


def tokens_and_blocks(variant="dinov2", keep=None):
    """Return tokens of 12 images, and the blocks of a model."""
    model = wrap(VARIANTS[variant].build(), levels=LEVELS)
    kept = {"*.scores": "bf16", "*.mix": "bf16"} if keep is None else keep
    quantize(model, images(8, model.config.image_size), method="repq", keep=kept)
    with torch.no_grad():
        return model.embed(images(12, model.config.image_size, seed=1)), list(model.trunk.blocks)


def check(hidden, prepared, monkeypatch, run, *, counts):
    """Compare what some images become, for several numbers of them."""
    for count in counts:
        with torch.inference_mode():
            expected = prepared(hidden[:count])
            with monkeypatch.context() as patch:
                patch.setattr(blocks_module, "block_runner", lambda _: run)
                found = prepared(hidden[:count])
        # A code here and there: sums are rounded in another order.
        assert (found - expected).norm() < 0.01 * (expected - hidden[:count]).norm()


def test_only_cuda_compiles():
    assert block_runner("cpu") is run_as_it_is
    assert isinstance(block_runner("cuda"), CompiledRun)


class TestCompiled:
    @pytest.mark.parametrize(
        "keep", [None, {}, {"*.scores": "fp32", "*.mix": "fp32"}, {"*.fc2": "fp32"}], ids=str
    )
    @pytest.mark.slow
    @pytest.mark.parametrize("variant", ["vit", "dinov2", "dinov2-swiglu"])
    def test_equal_the_others(self, variant, keep, monkeypatch):
        hidden, blocks = tokens_and_blocks(variant, keep)
        run = CompiledRun("aot_eager")
        for level in (8, "bf16"):
            check(hidden, PreparedBlocks(blocks[:2], level), monkeypatch, run, counts=(12, 1, 3))

    def test_blocks_and_batch_sizes_share_programs(self, monkeypatch):
        hidden, blocks = tokens_and_blocks()
        counter = CompileCounterWithBackend("aot_eager")
        run = CompiledRun(counter)
        for level in (8, 6):
            check(hidden, PreparedBlocks(blocks, level), monkeypatch, run, counts=(12, 9, 10, 11))
        # At most one for each level; and whole blocks: nothing is left to Python between two halves.
        assert counter.frame_count <= 2

    def test_without_a_compiler_run_as_they_are(self, monkeypatch):
        def fail(*_):
            raise RuntimeError("no compiler here")

        hidden, blocks = tokens_and_blocks()
        run = CompiledRun(fail)
        with pytest.warns(UserWarning, match=r"cannot be compiled, and run slower: .*no compiler here"):
            check(hidden, PreparedBlocks(blocks, 8), monkeypatch, run, counts=(12,))
        check(hidden, PreparedBlocks(blocks, 8), monkeypatch, run, counts=(12, 3))

    @pytest.mark.slow
    def test_to_the_end_equal_the_others(self, monkeypatch):
        hidden, blocks = tokens_and_blocks()
        check(hidden, PreparedBlocks(blocks, 8), monkeypatch, CompiledRun(), counts=(12, 1, 3))
