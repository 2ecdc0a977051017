"""Tests of execution on CUDA."""

import warnings

import pytest
import torch
from tests.tiny import images, mixed_lambdas, routable

from quee_hf.execution.network import NetworkWrapper
from quee_hf.execution.routed import routed_forward

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no CUDA device."),
]
FIELDS = {"levels": ["fp32", "bf16", 8, 6]}


@pytest.mark.parametrize("engine", ["torch", "torch_int8"])
@pytest.mark.parametrize("level", FIELDS["levels"])
@torch.inference_mode()
def test_a_path_is_near_that_of_the_cpu(engine, level):
    model = routable(**FIELDS).eval()
    expected = model(images(16), path=[level] * 3).logits
    model.to("cuda").set_engine(engine)
    for count in (16, 1, 3):
        found = model(images(count).cuda(), path=[level] * 3).logits.cpu()
        # A code more or less here and there, or eight bits of a float.
        assert (found - expected[:count]).norm() < 0.05 * expected[:count].norm()


class Counted(NetworkWrapper):
    """Counts what the host must learn of a device: each decision's scores."""

    num_decisions = 0

    def decide(self, *arguments):
        self.num_decisions += 1
        return super().decide(*arguments)


@torch.inference_mode()
def test_the_host_waits_for_nothing_but_decisions():
    model, pixel_values = routable(levels=[8, 6, 4]).eval().cuda(), images(16).cuda()
    network, lambdas = Counted(model), mixed_lambdas(16)
    routed_forward(network, pixel_values, lambdas)  # what is made at first use
    network.num_decisions = 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            routed_forward(network, pixel_values, lambdas)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(entry.message) for entry in found if "synchronizing CUDA operation" in str(entry.message)]
    assert network.num_decisions >= 2
    assert len(waits) <= network.num_decisions, waits
