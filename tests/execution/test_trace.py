"""Tests of `quee_hf.execution.trace`: watching changes nothing, and what is noted is what the gates say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.execution.test_routed import LAMBDAS, networks
from tests.tiny import images, routable

from quee_hf.execution.routed import routed_forward
from quee_hf.execution.trace import trace_image


@given(network=networks, cost_lambda=st.sampled_from(LAMBDAS), seed=st.integers(0, 9))
def test_what_is_noted_is_what_each_exit_and_gate_on_the_path_says(network, cost_lambda, seed):
    image = network.images(1, seed)
    routes, visits = trace_image(network, image, cost_lambda)
    expected = routed_forward(network, image, cost_lambda)
    assert torch.equal(routes.node, expected.node)
    assert torch.equal(routes.logits, expected.logits)

    tree = network.router.tree
    path = tree.paths[routes.node[0]]
    assert len(visits) == len(path)
    previous = torch.full((network.num_labels,), 1 / network.num_labels)
    for depth, visit in enumerate(visits, start=1):
        assert torch.equal(visit.logits, network.run_alone(image, path[:depth])[0])
        current = visit.logits.softmax(dim=-1)
        if depth == len(tree.paths[-1]):
            assert (visit.leave_error, visit.aim_error) == (None, None)
            break
        errors = network.predict_errors(depth, current, previous)
        nodes = range(tree.first_at_depth(depth), len(tree.paths))
        by_path = dict(zip((tree.paths[node] for node in nodes), errors.tolist(), strict=True))
        assert visit.leave_error == by_path[path[:depth]]
        ahead = [error for other, error in by_path.items() if other[:depth] == path[:depth]]
        assert visit.aim_error in ahead
        previous = current
    if len(path) < len(tree.paths[-1]):  # the last gate asked let it out
        assert visits[-1].aim_error == visits[-1].leave_error == routes.error.item()


@pytest.mark.parametrize("gate_type", ["error_predictor", "lra"])
@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_a_model_does_what_it_does_unwatched(gate_type, engine):
    model = routable(gate_type=gate_type)
    model.set_engine(engine)
    lengths = set()
    for number, image in enumerate(images(8).split(1)):
        cost_lambda = LAMBDAS[number % len(LAMBDAS)]
        with torch.inference_mode():
            expected = model(image, cost_lambda=cost_lambda)
            routes, visits = trace_image(model.network, image, cost_lambda)
        assert len(visits) == int(expected.exit_index) + 1
        torch.testing.assert_close(routes.logits, expected.logits, rtol=0, atol=0)
        torch.testing.assert_close(routes.error, expected.error_probability, rtol=0, atol=0, equal_nan=True)
        for visit in visits:
            assert visit.leave_error is None or 0 <= visit.leave_error <= 1
        if gate_type == "lra":  # its gates look at the exit at hand alone
            assert all(visit.leave_error == visit.aim_error for visit in visits)
        lengths.add(len(visits))
    assert len(lengths) > 1


def test_several_images_are_refused():
    model = routable()
    with pytest.raises(ValueError, match="must be of one image, got 2"):
        trace_image(model, images(2), 0.1)
