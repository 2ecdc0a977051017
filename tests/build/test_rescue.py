"""Tests of what `quee rescue` is made of: features, heads, routes, and the plan."""

import pytest
import torch
from tests.tiny import NUM_LABELS, VARIANTS, generator, images, wrap
from torch.nn import functional

from quee_hf.build.rescue_analysis import Fitted, compare_regimes
from quee_hf.build.rescue_features import BlockFeatures, collect_block_features
from quee_hf.build.rescue_heads import KINDS, HeadKind, head_logits, head_schedule, stand_in, train_heads
from quee_hf.build.rescue_plan import Regime, RescuePlan
from quee_hf.build.rescue_routes import (
    ENDINGS,
    NUM_SETTINGS,
    Division,
    Routes,
    fit_routes,
    gate_schedule,
    routing_stand_in,
)
from quee_hf.execution.path_outputs import PathOutputs

EXITS = (1, 2, 4)


def labelled(count: int, size: int) -> list[dict]:
    pixels = images(count, size)
    return [{"pixel_values": pixels[i], "labels": i % NUM_LABELS} for i in range(count)]


class TestFeatures:
    @pytest.mark.parametrize("name", ["vit", "dinov2-with-registers", "clip"])
    @pytest.mark.parametrize("head", ["ssa", "cls"])
    def test_are_what_heads_of_that_type_read(self, name, head):
        variant = VARIANTS[name]
        model = wrap(variant.build(), head_type=head)
        found = collect_block_features(model, labelled(5, variant.image_size), batch_size=2, title="")
        pixels, hidden = images(5, variant.image_size), None
        with torch.inference_mode():
            for exit_index in range(len(EXITS) - 1):
                hidden = model.embed(pixels) if hidden is None else hidden
                hidden = model.run_segment(exit_index, "fp32", hidden)
                read = found.read_by(head)[:, exit_index]
                torch.testing.assert_close(read, model.select_exit(exit_index, hidden))
                reading = model.read_exit(exit_index, hidden)
                torch.testing.assert_close(found.variance[:, exit_index], reading.variance)
        assert found.labels.tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("name", ["vit", "clip"])
    def test_of_the_last_block_give_the_networks_own_answer(self, name):
        variant = VARIANTS[name]
        model = wrap(variant.build())
        found = collect_block_features(model, labelled(5, variant.image_size), batch_size=5, title="")
        own = model(images(5, variant.image_size)).logits
        torch.testing.assert_close(model.as_logits(found.outputs), own)
        with torch.inference_mode():
            read_again = model.heads[-1](found.class_token[:, -1])
        torch.testing.assert_close(read_again, found.outputs)


def telling_features(network, block: int, count: int, seed: int) -> BlockFeatures:
    """Return noise in which only one block's class token says what the label is."""
    hidden, labels = 32, torch.arange(count) % NUM_LABELS
    tokens = torch.randn(count, len(EXITS), hidden, generator=generator(seed))
    tokens[:, block, :NUM_LABELS] = 4 * functional.one_hot(labels, NUM_LABELS).float()
    noise = torch.randn(count, len(EXITS), hidden, generator=generator(seed + 1))
    outputs = torch.randn(count, network.heads[-1].network.out_features, generator=generator(seed + 2))
    return BlockFeatures(tokens, noise, torch.zeros(count, len(EXITS)), outputs, labels)


class TestHeads:
    @pytest.mark.parametrize("block", [0, 2], ids=["first", "last"])
    def test_each_reads_its_own_block_the_last_one_too(self, block):
        network = wrap(VARIANTS["vit"].build())
        learning, stopping = (telling_features(network, block, 200, seed) for seed in (1, 11))
        kind = HeadKind("cls", "hard")
        teachers = (learning.outputs, stopping.outputs)
        tensors = train_heads(network, (learning, stopping), teachers, kind, head_schedule(5, 0))
        right = (
            head_logits(network, kind, tensors, stopping.class_token).argmax(-1) == stopping.labels[:, None]
        )
        accuracy = right.double().mean(dim=0)
        assert accuracy[block] > 0.95
        # The others guess: 3 standard deviations of 200 guesses above one in five.
        others = [index for index in range(len(EXITS)) if index != block]
        assert (accuracy[others] < 0.2 + 3 * (0.16 / 200) ** 0.5).all()
        blind = HeadKind("ssa", "hard")
        tensors = train_heads(network, (learning, stopping), teachers, blind, head_schedule(2, 0))
        right = (
            head_logits(network, blind, tensors, stopping.mean_patch).argmax(-1) == stopping.labels[:, None]
        )
        assert (right.double().mean(dim=0) < 0.2 + 3 * (0.16 / 200) ** 0.5).all()

    def test_only_the_distilled_ask_the_teacher(self):
        network = wrap(VARIANTS["clip"].build())
        features = tuple(telling_features(network, 1, 64, seed) for seed in (1, 11))
        teachers = [tuple(sign * part.outputs for part in features) for sign in (1, -1)]
        for supervision, is_same in (("hard", True), ("distilled", False)):
            kind = HeadKind("ssa", supervision)
            found = [train_heads(network, features, taught, kind, head_schedule(1, 0)) for taught in teachers]
            assert (
                all(torch.equal(*pair) for pair in zip(*(f.values() for f in found), strict=True)) == is_same
            )

    def test_all_have_as_many_weights(self):
        """Only what they read differs."""
        network = wrap(VARIANTS["dinov2"].build())
        features = tuple(telling_features(network, 1, 16, seed) for seed in (1, 11))
        teachers = tuple(part.outputs for part in features)
        shapes = []
        for kind in KINDS:
            tensors = train_heads(network, features, teachers, kind, head_schedule(1, 0))
            shapes.append({name: tensor.shape for name, tensor in tensors.items()})
        assert all(shape == shapes[0] for shape in shapes)
        assert {name.split(".")[1] for name in shapes[0]} == {"0", "1", "2"}

    def test_a_stand_in_has_the_same_classes_and_costs(self):
        network = wrap(VARIANTS["clip"].build(), cost_model="flops")
        model = stand_in(network, [1, 2, 4])
        assert torch.equal(model.class_embeddings, network.class_embeddings)
        assert model.config.class_names == network.config.class_names
        torch.testing.assert_close(model.router.costs, network.router.costs)
        assert not len(model.trunk.blocks)


def outputs(count: int, seed: int) -> PathOutputs:
    """Return exits of which later ones are more often right, and know how sure they are."""
    random, labels = generator(seed), torch.arange(count) % NUM_LABELS
    sureness = torch.tensor([1.0, 2.0, 4.0])[:, None] * torch.rand(count, 1, 1, generator=random)
    truth = functional.one_hot(labels, NUM_LABELS).float()[:, None]
    logits = torch.randn(count, len(EXITS), NUM_LABELS, generator=random) + 2 * sureness * truth
    return PathOutputs(logits, torch.rand(count, len(EXITS), generator=random), labels)


@pytest.fixture(scope="module")
def routes() -> dict[str, Routes]:
    model = routing_stand_in(wrap(VARIANTS["vit"].build(), cost_model="flops"), EXITS)
    validation, test = outputs(200, 1), outputs(100, 2)
    wrong = [PathOutputs(part.logits.clone(), part.variance, part.labels) for part in (validation, test)]
    for part in wrong:
        part.logits[:, -1] = -part.logits[:, -1]
    division = Division(*torch.arange(200).split([100, 40, 60]))
    pairs = {"own": (validation, test), "same": (wrong[0], wrong[1])}
    return fit_routes(model, pairs, division, gate_schedule(5, 0))


class TestRoutes:
    def test_costs_are_those_of_the_exits_taken(self, routes):
        assert set(routes) == set(ENDINGS)
        for found in routes.values():
            shares = torch.tensor(EXITS)[found.exit_index.long()] / EXITS[-1]
            torch.testing.assert_close(found.cost, shares.float())

    def test_all_leave_at_once_in_the_end_and_the_more_the_less_may_be_spent(self, routes):
        for found in routes.values():
            assert (found.exit_index[-1] == 0).all()
            assert found.point_cost[-1] == EXITS[0] / EXITS[-1]
        means = routes["own"].cost.mean(dim=1)
        assert (
            means[0] > means[NUM_SETTINGS // 2] > means[-2]
        )  # settings between have thresholds of their own

    def test_thresholds_know_what_ends_the_network(self, routes):
        """Where the last exit is always wrong, fewer images go there."""
        reached = {
            ending: float((found.exit_index[0] == 2).double().mean()) for ending, found in routes.items()
        }
        assert reached["same"] < reached["own"]

    @pytest.mark.parametrize("budget", [0.3, 0.6, 1.0])
    def test_the_operating_point_is_the_most_accurate_within_the_budget(self, routes, budget):
        found = routes["own"]
        chosen = found.setting_within(budget)
        affordable = found.point_cost <= budget
        assert affordable[chosen]
        assert found.point_accuracy[chosen] == found.point_accuracy[affordable].max()

    def test_a_network_beside_itself_differs_by_nothing(self, routes):
        test, kind = outputs(100, 2), HeadKind("ssa", "hard")
        logits = test.logits[:, -1]
        right = logits.argmax(dim=-1) == test.labels
        made = {(HeadKind("ssa", how), EXITS): [routes, routes] for how in ("hard", "distilled")}
        fitted = Fitted(right, logits, test.labels, {kind: torch.zeros(2, 3, 100).bool()}, made)
        compared = compare_regimes((fitted, fitted), EXITS, 0.8, "itself")
        for part in ("rows", "any_cost", "equal_flops"):
            for row in compared[part].values():
                assert {tuple(each["interval"]) for each in row["difference"].values()} == {(0.0, 0.0)}
        assert all(row["flops_saved"][0] == row["flops_saved"][1] for row in compared["rows"].values())
        assert "does not measurably exceed" in compared["statement"]


NAMES = {"model": "m", "train": "t", "validation": "v", "data": "d"}


class TestPlan:
    def test_methods_carry_their_smoothing(self):
        plan = RescuePlan(**NAMES, ptq=("repq", "torch_dynamic+search", "torch_dynamic"), smoothing=0.5)
        names = [regime.name for regime in plan.regimes]
        assert names == ["float", "repq+0.5", "torch_dynamic+search", "torch_dynamic+0.5"]
        assert Regime.parse("repq").smoothing is None

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"ptq": ("guess",)}, "`ptq` must name methods of .*'repq'.*got 'guess'"),
            ({"ptq": ("repq", "repq")}, "none of them twice"),
            ({"ptq": ()}, "at least one method"),
            ({"ptq": ("repq+2",)}, "2"),
            ({"budget": 0.0}, "`budget` must be above 0 and at most 1, got 0.0"),
            ({"level": "fp32"}, "`level` must be bits, 2 to 8, got 'fp32'"),
            ({"num_seeds": 0}, "`num_seeds` must be at least 1, got 0"),
            ({"num_train_images": 0}, "`num_train_images` must be at least 1"),
            ({"match_labels": "guess"}, "`match_labels` must be one of"),
        ],
    )
    def test_what_cannot_be_is_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            RescuePlan(**{**NAMES, **fields})
