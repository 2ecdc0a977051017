"""Tests of `QuEEForImageClassification`: the equalities that always hold, and how arguments are read."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from tests.reference.routing import route
from tests.tiny import (
    NUM_LABELS,
    VARIANTS,
    Variant,
    every_variant,
    images,
    mixed_lambdas,
    predict_errors,
    quantize_fast,
    routable,
    untrained_gates,
    wrap,
)
from torch import Tensor
from torch.utils.data import DataLoader

from quee_hf import NotReadyError, QuEEForImageClassification, QuEEImageClassifierOutput
from quee_hf.blueprint import segment_costs
from quee_hf.execution.path_outputs import collect_path_outputs, replay
from quee_hf.execution.prefix_tree import tree_forward
from quee_hf.exits.loss import scaled_exit_losses
from quee_hf.gates.features import GATE_FEATURES
from quee_hf.routing.costs import path_cost

# In float64 results of different batch sizes differ by 1e-15, which rounding to float32 hides but for the last place;
# CLIP's cosines are float32 sums of 16 products.
EXACT = {"rtol": 2**-22, "atol": 2**-18}


def exact(model: QuEEForImageClassification) -> QuEEForImageClassification:
    """Cast to float64: sums then do not visibly depend on their order. Codes and scales stay as they are."""
    return model.double().eval()


@pytest.fixture(scope="module")
def model():
    """Three exits, three integer levels, in float64."""
    return exact(routable())


@pytest.fixture(scope="module")
def pixel_values():
    return images(16).double()


@pytest.fixture(scope="module")
def routed(model, pixel_values):
    """The fixture model on 16 images, each with its own lambda, and every path's logits."""
    with torch.no_grad():
        return model(pixel_values, cost_lambda=mixed_lambdas(16), output_all_paths=True)


def taken(output) -> list[tuple[int, ...]]:
    return [tuple(level for level in row if level >= 0) for row in output.path.tolist()]


class TestRoutedForward:
    @every_variant
    def test_each_image_gets_the_logits_of_its_path_run_alone(self, variant: Variant):
        model = exact(routable(variant))
        pixel_values = images(16, variant.image_size).double()
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16))
            assert len(set(taken(output))) >= 3
            for path in set(taken(output)):
                rows = [i for i, other in enumerate(taken(output)) if other == path]
                alone = model(pixel_values, path=[model.level_list[level] for level in path])
                torch.testing.assert_close(output.logits[rows], alone.logits[rows], **EXACT)
                assert torch.equal(output.cost[rows], alone.cost[rows])
                assert torch.equal(output.exit_index[rows], alone.exit_index[rows])
                assert torch.equal(output.path[rows], alone.path[rows])

    def test_the_images_do_part_ways(self, routed):
        paths = taken(routed)
        assert {len(path) for path in paths} == {1, 2, 3}
        assert len({path[:2] for path in paths if len(path) > 1}) >= 2

    def test_equals_each_image_alone(self, model, pixel_values, routed):
        for i, cost_lambda in enumerate(mixed_lambdas(16).tolist()):
            with torch.no_grad():
                alone = model(pixel_values[i : i + 1], cost_lambda=cost_lambda)
            assert torch.equal(alone.path[0], routed.path[i])
            torch.testing.assert_close(alone.logits[0], routed.logits[i], **EXACT)
            torch.testing.assert_close(alone.error_probability[0], routed.error_probability[i], **EXACT)

    @pytest.mark.parametrize("seed", range(3))
    def test_order_and_neighbours_do_not_matter(self, model, pixel_values, routed, seed):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))[: 16 - 3 * seed]
        with torch.no_grad():
            output = model(pixel_values[order], cost_lambda=mixed_lambdas(16)[order])
        assert torch.equal(output.path, routed.path[order])
        torch.testing.assert_close(output.logits, routed.logits[order], **EXACT)

    def test_in_float32_too(self):
        model, pixel_values = routable(levels=["fp32", "bf16"]), images(16)
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16))
            for i, cost_lambda in enumerate(mixed_lambdas(16).tolist()):
                alone = model(pixel_values[i : i + 1], cost_lambda=cost_lambda)
                assert torch.equal(alone.path[0], output.path[i])
                # Sums in another order: 1e-5 of the logits' range in float32. At bf16, a difference in the 24th bit
                # can round an activation to its neighbour, 2**-8 away; it is one of hundreds that are added up.
                atol = 1e-5 if (output.path[i] < 1).all() else 2**-8
                bound = atol * output.logits.abs().max().item()
                torch.testing.assert_close(alone.logits[0], output.logits[i], rtol=0, atol=bound)

    def test_equals_the_reference_router_one_image_at_a_time(self, model, pixel_values, routed):
        probabilities = routed.all_logits.softmax(dim=-1).tolist()
        costs = dict(zip(model.paths, model.router.costs.tolist(), strict=True))

        for i, cost_lambda in enumerate(mixed_lambdas(16).tolist()):

            def errors(gate, current, previous):
                rows = torch.tensor([current]), torch.tensor([previous])
                reachable = [path for path in model.paths if len(path) >= gate]
                return dict(zip(reachable, predict_errors(model, gate, *rows)[0].tolist(), strict=True))

            def known(path, image=i):
                return probabilities[image][model.paths.index(path)]

            with torch.no_grad():
                path, error = route(costs, cost_lambda, known, errors)
            assert taken(routed)[i] == path
            assert routed.error_probability[i].item() == pytest.approx(error, rel=1e-5)

    def test_cost_is_the_cost_table_at_the_path(self, model, routed):
        table = segment_costs(model.config)
        expected = torch.tensor([path_cost(path, table) for path in taken(routed)])
        assert routed.cost.dtype == torch.float32
        assert torch.equal(routed.cost, expected)

    def test_exit_index_is_where_the_path_ends(self, routed):
        assert routed.exit_index.dtype == torch.int64
        assert routed.path.dtype == torch.int16
        assert routed.exit_index.tolist() == [len(path) - 1 for path in taken(routed)]
        for row, path in zip(routed.path.tolist(), taken(routed), strict=True):
            assert row == [*path, *[-1] * (3 - len(path))]

    def test_all_paths_are_each_path_alone(self, model, pixel_values, routed):
        assert routed.all_logits.shape == (16, len(model.paths), NUM_LABELS)
        for node, path in enumerate(model.paths):
            with torch.no_grad():
                alone = model(pixel_values, path=[model.level_list[level] for level in path]).logits
            torch.testing.assert_close(routed.all_logits[:, node], alone, **EXACT)

    def test_replay_equals_it(self, model, pixel_values, routed):
        items = [{"pixel_values": image, "labels": 0} for image in pixel_values]
        outputs = collect_path_outputs(model, items, batch_size=5)
        routes = replay(model, outputs, mixed_lambdas(16))
        assert [model.paths[node] for node in routes.node] == taken(routed)
        torch.testing.assert_close(routes.logits, routed.logits, **EXACT)
        torch.testing.assert_close(routes.error, routed.error_probability, **EXACT)

    def test_each_segment_runs_only_the_images_that_need_it(self, model, pixel_values, monkeypatch):
        calls = []
        run = model.run_segment

        def count(segment, level, hidden):
            calls.append((segment, level, len(hidden)))
            return run(segment, level, hidden)

        monkeypatch.setattr(model, "run_segment", count)
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16))
        expected = {}
        for path in taken(output):
            for segment, level in enumerate(path):
                key = segment, model.level_list[level]
                expected[key] = expected.get(key, 0) + 1
        assert {call[:2]: call[2] for call in calls} == expected
        assert len(calls) == len(expected)

    def test_the_tree_runs_each_node_once(self, model, pixel_values, monkeypatch):
        calls, run = [], model.run_segment
        monkeypatch.setattr(
            model, "run_segment", lambda *arguments: calls.append(arguments[:2]) or run(*arguments)
        )
        with torch.no_grad():
            tree_forward(model, pixel_values[:2])
        expected = [(len(path) - 1, model.level_list[path[-1]]) for path in model.paths]
        assert sorted(calls) == sorted(expected)


class TestLambda:
    def test_zero_goes_by_predicted_error_alone(self, model, pixel_values):
        dear = copy.deepcopy(model)
        dear.config.cost_model = "latency"  # other costs, other order: without effect at lambda 0
        dear.config.cost_table = [[9.0, 5.0, 1.0], [9.0, 8.0, 7.0], [3.0, 2.0, 1.0]]
        with torch.no_grad():
            output, other = (each(pixel_values, cost_lambda=0) for each in (model, dear))
        assert torch.equal(output.path, other.path)
        assert not torch.equal(output.cost, other.cost)

    @pytest.mark.parametrize("cost_lambda", [math.inf, torch.inf, 1e300, torch.tensor(torch.inf)])
    def test_infinity_takes_the_cheapest_path(self, model, pixel_values, cost_lambda):
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=cost_lambda)
        assert set(taken(output)) == {(0,)}
        assert (output.cost == model.router.costs.min()).all()

    def test_one_number_equals_one_per_image(self, model, pixel_values):
        with torch.no_grad():
            number = model(pixel_values, cost_lambda=0.2)
            each = model(pixel_values, cost_lambda=torch.full((16,), 0.2))
        assert all(torch.equal(number[name], each[name]) for name in number)

    def test_cheaper_on_average_as_it_grows(self, model, pixel_values):
        with torch.no_grad():
            costs = [
                model(pixel_values, cost_lambda=value).cost.mean() for value in (0.0, 0.1, 0.4, 2.0, math.inf)
            ]
        # Step by step a single image may be led astray, but not the mean over widely spaced values.
        assert costs == sorted(costs, reverse=True)
        assert costs[0] > costs[-1]

    @pytest.mark.parametrize("value", [-0.1, math.nan, torch.tensor(-1.0), torch.full((16,), math.nan)])
    def test_negative_or_no_number_is_refused(self, model, pixel_values, value):
        with pytest.raises(ValueError, match="`cost_lambda` must be at least 0"):
            model(pixel_values, cost_lambda=value)

    @pytest.mark.parametrize("shape", [(15,), (1,), (16, 1)])
    def test_another_shape_is_refused(self, model, pixel_values, shape):
        with pytest.raises(ValueError, match=r"one number or one per image, \(16,\), got shape"):
            model(pixel_values, cost_lambda=torch.zeros(shape))

    def test_the_default_is_the_configs(self, pixel_values):
        model = exact(routable())
        model.config.cost_lambda = 0.4
        with torch.no_grad():
            default, explicit, full = (
                model(pixel_values),
                model(pixel_values, cost_lambda=0.4),
                model(pixel_values, path=(8, 8, 8)),
            )
        assert all(torch.equal(default[name], explicit[name]) for name in default)
        assert set(taken(default)) != {(0, 0, 0)} == set(taken(full))

    def test_without_a_default_all_images_run_everything_at_the_most_exact_level(self, model, pixel_values):
        with torch.no_grad():
            output = model(pixel_values[:3])
        assert taken(output) == [(0, 0, 0)] * 3
        assert output.cost.tolist() == [1.0] * 3
        assert output.error_probability.isnan().all()

    def test_untrained_gates_are_not_asked(self, pixel_values):
        model = exact(routable())
        model.config.trained_parts = ["heads"]
        with pytest.raises(
            NotReadyError, match=r"gates are not trained: use `quee_hf.GateTrainer`, or force"
        ):
            model(pixel_values, cost_lambda=0.1)
        model.config.cost_lambda = 0.1
        with pytest.raises(NotReadyError, match="gates are not trained"):
            model(pixel_values)
        assert model(pixel_values, path=(8,)).logits.shape == (16, NUM_LABELS)


class TestForcedPath:
    @pytest.mark.parametrize("path", [(8,), [8, 4], (8, 6, 4), (4, 6, 8)])
    def test_runs_these_levels_for_all(self, model, pixel_values, path):
        """Also paths that no gate would score: levels that rise, or that start low."""
        with torch.no_grad():
            output = model(pixel_values[:2], path=path)
            hidden = model.embed(pixel_values[:2])
            for segment, level in enumerate(path):
                hidden = model.run_segment(segment, level, hidden)
            assert torch.equal(output.logits, model.read_exit(len(path) - 1, hidden).logits)
        indices = [model.level_list.index(level) for level in path]
        assert output.path.tolist() == [[*indices, *[-1] * (3 - len(path))]] * 2
        assert output.exit_index.tolist() == [len(path) - 1] * 2
        # Blocks 1, 1 and 2 of 4, at bits of 8.
        blocks = [1, 1, 2]
        cost = sum(n * bits for n, bits in zip(blocks, path, strict=False)) / (4 * 8)
        assert output.cost.tolist() == pytest.approx([cost] * 2)
        assert output.error_probability.isnan().all()

    @pytest.mark.parametrize(
        "path", [(), (8, 8, 8, 8), (5,), (8, "fp32"), ("8",), "fp32", (8, None)], ids=repr
    )
    def test_a_malformed_path_is_refused_with_what_is_allowed(self, model, pixel_values, path):
        with pytest.raises(ValueError, match=r"`path` must hold 1 to 3 of the levels \[8, 6, 4\], got"):
            model(pixel_values, path=path)

    def test_a_path_and_a_lambda_contradict_each_other(self, model, pixel_values):
        with pytest.raises(ValueError, match="Give `cost_lambda` or `path`, not both"):
            model(pixel_values, path=(8,), cost_lambda=0.1)

    def test_a_path_overrides_the_default_lambda(self, pixel_values):
        model = exact(routable())
        model.config.cost_lambda = math.inf
        assert taken(model(pixel_values[:1], path=(8, 8))) == [(0, 0)]


class TestClassifyStream:
    @staticmethod
    def joined(outputs) -> QuEEImageClassifierOutput:
        outputs = list(outputs)
        assert all(len(tensor) == 1 for output in outputs for tensor in output.to_tuple())
        return QuEEImageClassifierOutput(
            **{name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}
        )

    @staticmethod
    def assert_same(found, wanted) -> None:
        assert list(found) == [name for name in wanted if name != "all_logits"]
        for name in ("path", "exit_index", "cost"):
            assert torch.equal(found[name], wanted[name])
            assert found[name].dtype == wanted[name].dtype
        torch.testing.assert_close(found.logits, wanted.logits, **EXACT)
        torch.testing.assert_close(found.error_probability, wanted.error_probability, **EXACT, equal_nan=True)

    @pytest.mark.parametrize("batch_size", [1, 3, 32])
    def test_equals_forward(self, model, pixel_values, routed, batch_size):
        stream = model.classify_stream(
            pixel_values.split(5), cost_lambda=mixed_lambdas(16), batch_size=batch_size
        )
        self.assert_same(self.joined(stream), routed)

    @pytest.mark.parametrize("variant", ["dinov2", "clip"])
    def test_equals_forward_for_other_backbones(self, variant):
        model = exact(routable(VARIANTS[variant]))
        pixel_values = images(16, VARIANTS[variant].image_size).double()
        with torch.no_grad():
            wanted = model(pixel_values, cost_lambda=0.1)
        stream = model.classify_stream(pixel_values.split(3), cost_lambda=0.1, batch_size=4)
        self.assert_same(self.joined(stream), wanted)

    @pytest.mark.parametrize("fields", [{"cost_lambda": 0.1}, {}], ids=["a-lambda", "none"])
    def test_the_default_is_the_configs(self, pixel_values, fields):
        model = exact(routable(**fields))
        with torch.no_grad():
            wanted = model(pixel_values)
        self.assert_same(self.joined(model.classify_stream(pixel_values.split(5), batch_size=3)), wanted)

    @pytest.mark.parametrize("path", [[8], [8, 6, 4], [4, 4]])
    def test_a_path_is_for_all(self, model, pixel_values, path):
        with torch.no_grad():
            wanted = model(pixel_values, path=path)
        stream = model.classify_stream(pixel_values.split(5), path=path, batch_size=3)
        self.assert_same(self.joined(stream), wanted)

    @pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
    def test_runs_on_an_engine(self, engine):
        pytest.importorskip(engine)
        model = routable(levels=[8, 4])
        model.set_engine(engine)
        pixel_values = images(16)
        with torch.no_grad():
            wanted = model(pixel_values, cost_lambda=mixed_lambdas(16))
        found = self.joined(
            model.classify_stream(pixel_values.split(5), cost_lambda=mixed_lambdas(16), batch_size=4)
        )
        assert torch.equal(found.path, wanted.path)
        torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=1e-3)

    def test_gate_thresholds_route_it_too(self, pixel_values):
        model = exact(routable(gate_type="lra", levels=[8, 4]))
        with torch.no_grad():
            wanted = model(pixel_values, cost_lambda=mixed_lambdas(16))
        stream = model.classify_stream(pixel_values.split(5), cost_lambda=mixed_lambdas(16), batch_size=4)
        self.assert_same(self.joined(stream), wanted)

    @pytest.mark.parametrize("path", [None, [8, 6]])
    def test_batches_may_be_those_of_a_loader(self, model, pixel_values, path):
        data = [{"pixel_values": row, "labels": i} for i, row in enumerate(pixel_values)]
        loader = DataLoader(data, batch_size=5)
        stream = model.classify_stream(loader, cost_lambda=None if path else 0.1, path=path, batch_size=4)
        with torch.no_grad():
            self.assert_same(
                self.joined(stream), model(pixel_values, cost_lambda=None if path else 0.1, path=path)
            )

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"cost_lambda": 0.1, "path": [8]}, ValueError, "not both"),
            ({"cost_lambda": -0.1}, ValueError, "`cost_lambda` must be at least 0"),
            ({"cost_lambda": [0.1, math.nan]}, ValueError, "`cost_lambda` must be at least 0"),
            ({"path": [7]}, ValueError, "`path` must hold"),
            ({"batch_size": 0}, ValueError, "`batch_size`"),
            ({"path": [8], "batch_size": 0}, ValueError, "`batch_size`"),
            ({"batches": torch.zeros(1, 3, 32, 32)}, TypeError, "`batches`"),
        ],
        ids=str,
    )
    def test_bad_arguments_are_refused_before_anything_is_read(self, model, arguments, error, message):
        def batches():
            raise AssertionError("read")
            yield

        with pytest.raises(error, match=message):
            model.classify_stream(**{"batches": batches(), "cost_lambda": None, **arguments})

    def test_training_mode_and_untrained_gates_are_refused(self, pixel_values):
        model = routable()
        with pytest.raises(NotReadyError, match="training mode"):
            model.train().classify_stream([pixel_values], cost_lambda=0.1)
        model.eval().config.trained_parts = []
        with pytest.raises(NotReadyError, match="gates are not trained"):
            model.classify_stream([pixel_values], cost_lambda=0.1)
        assert len(list(model.classify_stream([pixel_values.float()]))) == 16

    @pytest.mark.parametrize("arguments", [{"cost_lambda": 0.1}, {"path": [8]}], ids=["routed", "forced"])
    def test_outputs_are_ordinary_tensors_that_may_be_changed(self, model, pixel_values, arguments):
        expected = list(model.classify_stream([pixel_values], batch_size=8, **arguments))
        found = []
        for output in model.classify_stream([pixel_values], batch_size=8, **arguments):
            assert not torch.is_inference_mode_enabled()
            found.append(copy.deepcopy(output))
            for tensor in output.to_tuple():
                assert not tensor.is_inference()
                assert not tensor.requires_grad
                tensor.zero_()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.to_tuple(), other.to_tuple(), rtol=0, atol=0, equal_nan=True)

    @pytest.mark.parametrize("arguments", [{"cost_lambda": 0.1}, {"path": [8]}], ids=["routed", "forced"])
    def test_an_error_in_the_data_comes_after_the_results_before_it(self, model, pixel_values, arguments):
        def batches():
            yield from pixel_values.split(5)
            raise OSError("no such disk")

        found = []
        with pytest.raises(OSError, match="no such disk"):
            found.extend(model.classify_stream(batches(), batch_size=8, **arguments))
        assert len(found) == 16


class TestLabels:
    @pytest.mark.parametrize("arguments", [{}, {"path": (8, 4)}, {"cost_lambda": 0.2}], ids=str)
    def test_loss_is_the_cross_entropy_of_the_logits(self, model, pixel_values, arguments):
        labels = torch.arange(16) % NUM_LABELS
        with torch.no_grad():
            output = model(pixel_values, labels, **arguments)
        expected = -output.logits.log_softmax(dim=-1)[range(16), labels].mean()
        torch.testing.assert_close(output.loss, expected)
        assert model(pixel_values, **arguments).loss is None


class TestTrainingMode:
    def test_loss_is_the_scaled_loss_of_all_exits(self, pixel_values):
        model = exact(routable())
        labels = torch.arange(16) % NUM_LABELS
        with torch.no_grad():
            exits = [model(pixel_values, path=(8,) * length).logits for length in (1, 2, 3)]
        output = model.train()(pixel_values, labels)
        losses = scaled_exit_losses(torch.stack(exits, dim=1), labels)
        torch.testing.assert_close(output.loss, losses.mean())
        torch.testing.assert_close(output.logits, exits[-1])
        assert model(pixel_values).loss is None

    def test_only_heads_get_gradients(self, pixel_values):
        model = exact(routable()).train()
        model(pixel_values, torch.zeros(16, dtype=torch.long)).loss.backward()
        with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert with_gradient == {f"heads.{i}.network.{part}" for i in (0, 1) for part in ("weight", "bias")}

    def test_the_trunk_has_no_training_mode(self):
        backbone = VARIANTS["vit"].make()
        backbone.config.hidden_dropout_prob = backbone.config.attention_probs_dropout_prob = 0.5
        model = wrap(backbone).train()
        assert model.training
        assert not any(module.training for module in model.trunk.modules())
        assert torch.equal(model(images(2)).logits, model(images(2)).logits)
        model.eval()
        assert not any(module.training for module in model.modules())

    def test_arguments_of_evaluation_have_no_effect(self, pixel_values):
        model = exact(routable()).train()
        plain = model(pixel_values).logits
        assert torch.equal(
            model(pixel_values, cost_lambda=0.5, path=(8,), output_all_paths=True).logits, plain
        )


class TestFirstLevel:
    def test_highest_has_no_gate_0(self):
        model = routable(first_level="highest")
        assert list(model.gates) == ["1", "2"]
        assert {path[0] for path in model.paths} == {0}

    def test_any_picks_the_first_level_by_what_paths_do_on_average(self, pixel_values):
        model = exact(routable(first_level="any"))
        assert list(model.gates) == ["0", "1", "2"]
        assert {path[0] for path in model.paths} == {0, 1, 2}
        with torch.no_grad():
            errors = model.gates.logits(0, torch.empty(1, 0, 1)).sigmoid()[0]
            for cost_lambda in (0.0, 0.1, 0.3, 1.0, 5.0):
                best = (errors + cost_lambda * model.router.costs).argmin()
                output = model(pixel_values, cost_lambda=cost_lambda)
                # Nothing is known of an image before its first segment: all start alike.
                assert {path[0] for path in taken(output)} == {model.paths[best][0]}

    def test_a_single_level_leaves_nothing_to_pick(self):
        assert list(routable(levels=[8], first_level="any").gates) == ["1", "2"]

    def test_images_of_one_batch_may_start_at_different_levels(self, pixel_values):
        model = exact(routable(first_level="any"))
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16))
            assert len({path[0] for path in taken(output)}) >= 2
            for i, cost_lambda in enumerate(mixed_lambdas(16).tolist()):
                alone = model(pixel_values[i : i + 1], cost_lambda=cost_lambda)
                assert torch.equal(alone.path[0], output.path[i])
                torch.testing.assert_close(alone.logits[0], output.logits[i], **EXACT)


class TestGates:
    @pytest.mark.parametrize("kind", GATE_FEATURES)
    def test_each_kind_of_features_routes(self, kind, pixel_values):
        model = routable(gate_features=kind)
        untrained_gates(model, seed=3)
        model = exact(model)
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16))
        assert len(set(taken(output))) >= 3
        assert ((output.error_probability >= 0) & (output.error_probability <= 1)).all()

    def test_lra_gates_leave_at_the_first_sure_exit_on_the_most_exact_path(self, pixel_values):
        model = exact(routable(gate_type="lra"))
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16))
            assert len({len(path) for path in taken(output)}) >= 2
            assert all(set(path) == {0} for path in taken(output))
            for i, cost_lambda in enumerate(mixed_lambdas(16).tolist()):
                alone = model(pixel_values[i : i + 1], cost_lambda=cost_lambda)
                assert torch.equal(alone.path[0], output.path[i])
                torch.testing.assert_close(alone.logits[0], output.logits[i], **EXACT)
                left = next(
                    (
                        depth
                        for depth in (1, 2)
                        if self.right(model, pixel_values[i : i + 1], depth)
                        >= model.gates.threshold(depth, np.array([cost_lambda], np.float32))[0]
                    ),
                    3,
                )
                assert len(taken(output)[i]) == left

    @every_variant
    @pytest.mark.parametrize("gate_type", ["lra", "error_predictor"])
    def test_both_papers_gates_route_on_ssa_heads_of_every_backbone(self, variant, gate_type):
        model = exact(routable(variant, head_type="ssa", gate_type=gate_type))
        pixel_values = images(8, variant.image_size).double()
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(8))
            for i, path in enumerate(taken(output)):
                forced = model(pixel_values[i : i + 1], path=[model.level_list[level] for level in path])
                torch.testing.assert_close(forced.logits[0], output.logits[i], **EXACT)
        assert len(set(taken(output))) >= 2

    @staticmethod
    def right(model, pixel_values, depth):
        """Return what the gate after an exit says of it, from the exit's tokens, written out."""
        hidden = model.embed(pixel_values)
        for segment in range(depth):
            hidden = model.run_segment(segment, 8, hidden)
        tokens = model.trunk.norm(hidden)
        logits = model.heads[depth - 1](model.heads[depth - 1].select(tokens))
        first, second = logits.float().softmax(dim=-1).sort(descending=True).values[:, :2].T
        variance = tokens[:, 1:].float().var(dim=1, correction=0).mean(dim=1)
        layer = model.gates.layers[str(depth)]
        features = torch.stack([first, first - second, variance], dim=-1)
        return layer(features.to(layer.weight.dtype)).sigmoid().float().squeeze(-1)

    def test_a_gate_looks_at_this_exit_and_the_one_before_in_this_order(self, model):
        current, previous = torch.rand(2, 3, NUM_LABELS).softmax(dim=-1)
        with torch.no_grad():
            log, unit = 1e-7, 4  # the smallest probability that counts, and what logarithms are divided by
            parts = []
            for rows in (current, previous):
                entropy = -(rows * rows.log()).sum(dim=-1, keepdim=True)
                parts.append(torch.cat([rows.sort(descending=True).values[:, :3], entropy], dim=-1))
            features = torch.cat(parts, dim=-1).clamp_min(log).log() / unit
            expected = model.gates["2"](features.double()).sigmoid().float()
            torch.testing.assert_close(predict_errors(model, 2, current, previous), expected)
            assert not torch.allclose(predict_errors(model, 2, previous, current), expected)

    def test_a_single_exit_has_none(self, pixel_values):
        model = exact(routable(exit_blocks=[4], levels=[8, 4]))
        assert len(model.gates) == 0
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=0.5)
        assert taken(output) == [(0,)] * 16
        assert output.error_probability.isnan().all()

    def test_sampled_paths_are_all_that_gates_score(self, pixel_values):
        model = exact(routable(max_paths=5, path_seed=1))
        assert len(model.paths) <= 5
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16), output_all_paths=True)
        assert set(taken(output)) <= set(model.paths)
        assert output.all_logits.shape[1] == len(model.paths)

    def test_many_exits_and_levels_do_not_list_all_paths(self):
        backbone = VARIANTS["vit"].make().config.to_dict() | {"num_hidden_layers": 12}
        fields = {"levels": [8, 6, 5, 4], "monotone_levels": False, "max_paths": 50}
        from quee_hf import QuEEConfig

        model = QuEEForImageClassification(
            QuEEConfig(backbone_config=backbone, exit_blocks=list(range(1, 13)), **fields)
        )
        assert len(model.paths) == 50
        assert (0,) * 12 in model.paths


class TestCosts:
    def test_can_be_swapped_without_training(self, pixel_values):
        model = exact(routable())
        assert model.router.costs.max() == 1
        model.config.cost_table = [[8.0, 4.0, 2.0], [8.0, 4.0, 2.0], [16.0, 9.0, 1.0]]
        model.config.cost_model = "latency"
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16))
        expected = [path_cost(path, model.config.cost_table) for path in taken(output)]
        torch.testing.assert_close(output.cost, torch.tensor(expected))
        model.config.cost_table = [[1.0, 1.0, 1.0]] * 3
        assert model(pixel_values[:1], path=(8,)).cost.item() == pytest.approx(1 / 3)
        model.config.cost_model = "bitops"
        assert model(pixel_values[:1], path=(8,)).cost.item() == pytest.approx(1 / 4)

    def test_by_time_a_level_that_is_no_faster_is_not_chosen(self, pixel_values):
        model = exact(routable(first_level="any"))
        model.config.cost_table, model.config.cost_model = [[4.0, 2.0, 2.0]] * 3, "latency"
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16))
        assert output.path.max() <= 1
        model.config.cost_table = [[4.0, 4.0, 4.0]] * 3
        with torch.no_grad():
            output = model(pixel_values, cost_lambda=mixed_lambdas(16))
        assert output.path.max() == 0  # depth alone is chosen
        assert len(output.exit_index.unique()) > 1

    def test_choosing_a_cost_model_forgets_what_was_measured_at_other_costs(self):
        model = routable()
        model.config.operating_points, model.config.cost_lambda = [{}], 0.3
        model.set_cost_model("bitops")
        assert model.config.cost_lambda == 0.3
        model.set_cost_model("flops")
        assert (model.config.operating_points, model.config.cost_lambda) == (None, None)
        model.config.validate()

    def test_an_impossible_cost_model_is_refused(self):
        model = routable()
        with pytest.raises(ValueError, match=r"`cost_model` must be one of .*got 'euros'"):
            model.set_cost_model("euros")
        with pytest.raises(NotReadyError, match="No times are known: run `quee profile`"):
            model.set_cost_model("latency")
        assert model.config.cost_model == "bitops"


class TestLevels:
    def test_float_and_integer_levels_mix_on_one_path(self):
        model = routable(levels=["fp32", "bf16", 8, 4])
        with torch.no_grad():
            output = model(images(4), path=("fp32", "bf16", 4))
            mixed = model(images(16), cost_lambda=mixed_lambdas(16))
        assert output.logits.isfinite().all()
        assert output.logits.dtype == torch.float32
        assert output.cost.tolist() == pytest.approx([(32 + 16 + 2 * 4) / (4 * 32)] * 4)
        assert mixed.logits.isfinite().all()

    def test_bf16_is_nearer_to_fp32_than_4_bits_are(self):
        model = routable(levels=["fp32", "bf16", 8, 4])
        with torch.no_grad():
            full, *others = (model(images(16), path=(level,) * 3).logits for level in model.level_list)
        errors = [(other - full).square().mean() for other in others]
        assert 0 < errors[0] < errors[1] < errors[2]

    def test_most_exact_level_is_fp32_until_quantized(self):
        model = wrap(VARIANTS["vit"].build(), levels=["bf16", 8])
        assert model.exact_level == "fp32"
        quantize_fast(model)
        assert model.exact_level == "bf16"


class TestCopies:
    @pytest.mark.parametrize(
        "clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
    )
    def test_behave_alike_and_share_nothing(self, clone, pixel_values):
        model = exact(routable())
        arguments = {"cost_lambda": mixed_lambdas(16), "output_all_paths": True}
        with torch.no_grad():
            expected = model(pixel_values, **arguments)
            twin = clone(model)
            output = twin(pixel_values, **arguments)
            assert all(torch.equal(output[name], expected[name]) for name in expected)
            assert twin.config is not model.config
            for tensor in twin.state_dict().values():
                tensor.zero_()
            again = model(pixel_values, **arguments)
        assert all(torch.equal(again[name], expected[name]) for name in expected)
        flags = [parameter.requires_grad for parameter in model.parameters()]
        assert [parameter.requires_grad for parameter in twin.parameters()] == flags


class TestEdges:
    def test_an_empty_batch_gives_empty_tensors(self, model):
        nothing = torch.zeros(0, 3, 32, 32).double()
        for arguments in ({}, {"cost_lambda": 0.3}, {"cost_lambda": torch.zeros(0)}):
            output = model(nothing, **arguments)
            assert output.logits.shape == (0, NUM_LABELS)
            assert output.path.shape == (0, 3)
            assert output.cost.shape == output.exit_index.shape == output.error_probability.shape == (0,)

    def test_every_tensor_but_the_loss_has_the_batch_first(self, model, pixel_values):
        """Pipelines take outputs apart by slicing them."""
        with torch.no_grad():
            output = model(
                pixel_values[:5], torch.zeros(5, dtype=torch.long), cost_lambda=0.2, output_all_paths=True
            )
        for name, tensor in output.items():
            assert isinstance(tensor, Tensor)
            assert name == "loss" or len(tensor) == 5

    def test_inference_mode_leaves_no_trace(self, pixel_values):
        model = exact(routable())
        with torch.inference_mode():
            expected = model(pixel_values, cost_lambda=0.2)
        tracked = model(pixel_values.clone().requires_grad_(), cost_lambda=0.2)
        assert torch.equal(tracked.logits.detach(), expected.logits)
        model.train()(pixel_values, torch.zeros(16, dtype=torch.long)).loss.backward()

    def test_images_are_not_changed(self, model, pixel_values):
        before = pixel_values.clone()
        model(pixel_values, cost_lambda=0.2, output_all_paths=True)
        assert torch.equal(pixel_values, before)

    def test_requires_grad_flags_after_construction(self):
        for name, parameter in wrap(VARIANTS["clip-vision"].build()).named_parameters():
            assert parameter.requires_grad == name.startswith(("heads.0.", "heads.1.", "gates.")), name


class TestOperatingPoints:
    def items(self, pixel_values):
        return [{"pixel_values": image, "labels": i % NUM_LABELS} for i, image in enumerate(pixel_values)]

    def test_are_measured_stored_and_the_default_is_chosen(self, pixel_values):
        model = exact(routable())
        points = model.fit_operating_points(
            self.items(pixel_values), lambdas=[1.0, 0.0, 0.2], max_accuracy_drop=1.0, batch_size=7
        )
        assert model.config.operating_points == points
        assert [point["cost_lambda"] for point in points] == [0.0, 0.2, 1.0]
        labels = torch.arange(16) % NUM_LABELS
        for point in points:
            with torch.no_grad():
                output = model(pixel_values, cost_lambda=point["cost_lambda"])
            assert point["cost"] == pytest.approx(output.cost.double().mean().item())
            assert point["accuracy"] == (output.logits.argmax(dim=-1) == labels).double().mean().item()
        # Any accuracy is good enough, so the cheapest is the default.
        assert model.config.cost_lambda == min(points, key=lambda point: point["cost"])["cost_lambda"]

    def test_no_point_good_enough_leaves_routing_off(self, pixel_values):
        model = exact(routable())
        model.config.cost_lambda = 0.3
        model.fit_operating_points(self.items(pixel_values), lambdas=[1.0], max_accuracy_drop=-1.0)
        assert model.config.cost_lambda is None

    def test_survive_a_file(self, pixel_values, tmp_path):
        model = routable()
        points = model.fit_operating_points(self.items(pixel_values[:4].float()), lambdas=[0.0, 0.5])
        model.save_pretrained(tmp_path)
        assert QuEEForImageClassification.from_pretrained(tmp_path).config.operating_points == points

    def test_need_trained_gates(self, pixel_values):
        model = exact(routable())
        model.config.trained_parts = ["heads"]
        with pytest.raises(NotReadyError, match="gates are not trained"):
            model.fit_operating_points(self.items(pixel_values))
        assert model.config.operating_points is None
