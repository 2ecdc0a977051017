"""What holds for every baseline, and what each is."""

import pytest
import torch
from tests.baselines.conftest import LEVELS, NUM_EXITS, outputs, router

from quee_hf.baselines import BASELINES, GateData
from quee_hf.baselines.sweep import geometric_shares
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS


@pytest.fixture(params=BASELINES)
def name(request):
    return request.param


def best_accuracy(sweep):
    return float(sweep.is_correct.double().mean(dim=1).max())


class TestEvery:
    def test_costs_are_those_of_paths_with_that_outcome(self, name, data):
        test = outputs(data.router, 50, seed=3)
        sweep = BASELINES[name](data)(test)
        assert sweep.is_correct.shape == sweep.cost.shape
        assert sweep.cost.shape[1] == 50
        for is_correct, cost in zip(sweep.is_correct, sweep.cost, strict=True):
            possible = (cost[:, None] == data.router.costs) & (test.is_wrong == ~is_correct[:, None])
            assert possible.any(dim=1).all()

    def test_an_image_does_not_depend_on_the_others(self, name, data):
        if name == "random":
            pytest.skip("draws for all images at once")
        method, test = BASELINES[name](data), outputs(data.router, 40, seed=3)
        some = torch.arange(0, 40, 3)
        for whole, part in zip(method(test), method(test.select(some)), strict=True):
            assert torch.equal(whole[:, some], part)

    def test_the_seed_decides(self, name, data):
        test = outputs(data.router, 40, seed=3)
        torch.rand(3)  # the global generator has no say
        for first, second in zip(BASELINES[name](data)(test), BASELINES[name](data)(test), strict=True):
            assert torch.equal(first, second)


class TestBitController:
    def test_no_image_leaves_early(self, data):
        test = outputs(data.router, 60, seed=3)
        sweep = BASELINES["dqnet-gate"](data)(test)
        depth = max(map(len, data.router.tree.paths))
        whole = [node for node, path in enumerate(data.router.tree.paths) if len(path) == depth]
        assert set(sweep.cost.unique().tolist()) <= set(data.router.costs[whole].tolist())

    def test_a_large_penalty_buys_the_cheapest_whole_path(self, data):
        tree = data.router.tree
        sweep = BASELINES["dqnet-gate"](data)(outputs(data.router, 60, seed=3))
        cheapest = data.router.costs[tree.index[(0, 1, 1)]]
        assert torch.equal(sweep.cost[-1], cheapest.expand(60))
        assert sweep.cost[0].mean() > sweep.cost[-1].mean()


def test_oracle_is_the_ceiling_and_random_the_floor(data):
    test = outputs(data.router, 2000, seed=3)
    reached = {name: BASELINES[name](data)(test) for name in BASELINES}
    ceiling = (~test.is_wrong).any(dim=1).double().mean()
    assert best_accuracy(reached["oracle"]) == pytest.approx(float(ceiling))
    assert all(best_accuracy(reached["oracle"]) >= best_accuracy(sweep) for sweep in reached.values())
    for name in ("max-probability", "entropy", "margin", "budgeted"):
        curve = reached[name]
        costs = curve.cost.double().mean(dim=1)
        middle = int((costs - 0.6).abs().argmin())
        other = reached["random"]
        nearest = int((other.cost.double().mean(dim=1) - costs[middle]).abs().argmin())
        gain = curve.is_correct[middle].double().mean() - other.is_correct[nearest].double().mean()
        assert gain > 0.02, name


def test_oracle_takes_the_cheapest_right_path():
    tree = router()
    test = outputs(tree, 30)
    sweep = BASELINES["oracle"](GateData(tree, LEVELS, test, test, 0))(test)
    for image in range(30):
        right = [
            float(cost) for cost, wrong in zip(tree.costs, test.is_wrong[image], strict=True) if not wrong
        ]
        assert float(sweep.cost[0, image]) == min(right, default=float(tree.costs.min()))


def test_patience_equals_a_loop():
    tree = router()
    test = outputs(tree, 60)
    sweep = BASELINES["patience"](GateData(tree, LEVELS, test, test, 0))(test)
    nodes = tree.tree.exact_nodes
    for row, patience in enumerate(range(1, NUM_EXITS + 1)):
        for image in range(60):
            classes = [int(test.logits[image, node].argmax()) for node in nodes]
            counter, leaves = 0, NUM_EXITS - 1
            for position in range(1, NUM_EXITS):
                counter = counter + 1 if classes[position] == classes[position - 1] else 0
                if counter == patience:
                    leaves = position
                    break
            assert float(sweep.cost[row, image]) == float(tree.costs[nodes[leaves]])


def test_budgeted_meets_its_shares_on_what_it_learnt_from():
    tree = router()
    known = outputs(tree, 1000)
    sweep = BASELINES["budgeted"](GateData(tree, LEVELS, known, known, 0))(known)
    exit_costs = tree.costs[tree.tree.exact_nodes].double()
    for row, shares in enumerate(geometric_shares(NUM_EXITS)):
        found = [(sweep.cost[row].double() == cost).double().mean() for cost in exit_costs]
        assert torch.stack(found).numpy() == pytest.approx(shares.numpy(), abs=0.002)


def test_next_best_step_learns(data):
    """It beats leaving at random by far, and a high lambda costs less."""
    test = outputs(data.router, 2000, seed=3)
    sweep = BASELINES["next-best-step"](data)(test)
    costs = sweep.cost.double().mean(dim=1)
    assert costs[0] > costs[DEFAULT_LAMBDAS.index(0.3)] > costs[-1] - 1e-9
    nodes = data.router.tree.exact_nodes
    full = (~test.is_wrong[:, nodes[-1]]).double().mean()
    assert best_accuracy(sweep) > full - 0.01


def test_the_best_path_is_the_best_on_average(data):
    sweep = BASELINES["best-path"](data)(data.stopping)
    errors, costs = data.training.is_wrong.double().mean(dim=0), data.router.costs.double()
    for setting, value in enumerate(DEFAULT_LAMBDAS):
        assert len(sweep.node[setting].unique()) == 1
        node = int(sweep.node[setting, 0])
        assert (errors + value * costs)[node] == pytest.approx(
            float((errors + value * costs).min()), abs=1e-6
        )
        assert torch.equal(sweep.is_correct[setting], ~data.stopping.is_wrong[:, node])
