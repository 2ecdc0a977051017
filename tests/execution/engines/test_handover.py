"""Tests of engines that alone have the weights: they give what others give, and what is lost is said to be."""

import copy
import pickle

import pytest
import torch
from tests.tiny import VARIANTS, images, mixed_lambdas, quantize_fast, routable, wrap
from torch.utils.data import Dataset

import quee_hf
from quee_hf import NotReadyError, add_level, calibrate, quantize
from quee_hf.execution.engines import ENGINES, REFERENCE
from quee_hf.execution.engines.handover import choosable_levels
from quee_hf.schemes import PRODUCTS

FLOATS = {"rtol": 1e-4, "atol": 1e-4}  # sums of float32 in another order, through all blocks
EVERY = [name for name in ENGINES if name != REFERENCE]
every_engine = pytest.mark.parametrize("engine", EVERY)
EARLY = [f"{block}.{product}" for block in (1, 2) for product in PRODUCTS]
GONE = "The weights are with the engine '{}' alone"


class RandomImages(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"pixel_values": images(4)[index], "labels": index}


def sole(engine, model=None, **fields):
    """Return a model whose engine alone has its weights."""
    model = model or routable(**fields)
    model.eval().set_engine(engine, keep_weights=False)
    return model


@torch.inference_mode()
def with_weights(engine, pixel_values, *, fields=None, **route):
    """Return what the same model gives that keeps them."""
    model = routable(**(fields or {}))
    model.set_engine(engine)
    return model(pixel_values, **route)


@every_engine
class TestResults:
    @pytest.mark.parametrize("levels", [[8, 6, 4], ["bf16", 8], ["fp32", "bf16"]])
    @pytest.mark.parametrize("gate_type", ["error_predictor", "lra"])
    def test_routes_are_those_of_a_model_with_weights(self, engine, levels, gate_type):
        fields = {"levels": levels, "gate_type": gate_type}
        route = {"cost_lambda": mixed_lambdas(16)}
        expected = with_weights(engine, images(16), fields=fields, **route)
        with torch.inference_mode():
            found = sole(engine, **fields)(images(16), **route)
        assert torch.equal(found.path, expected.path)
        torch.testing.assert_close(found.logits, expected.logits, **FLOATS)
        torch.testing.assert_close(
            found.error_probability, expected.error_probability, equal_nan=True, **FLOATS
        )

    @pytest.mark.parametrize("path", [["bf16"] * 3, ["bf16", 8], [8, 8, 8], [8]])
    def test_forced_paths_run_through_what_routing_uses(self, engine, path):
        fields = {"levels": ["bf16", 8], "first_level": "any"}
        expected = with_weights(engine, images(4), fields=fields, path=path)
        model = sole(engine, **fields)
        programs = dict(model._engine._programs)
        with torch.inference_mode():
            found = model(images(4), path=path)
        assert (found.logits - expected.logits).norm() < 0.02 * expected.logits.norm()
        assert model._engine._programs == programs

    def test_all_paths_are_those_of_the_tree(self, engine):
        expected = with_weights(engine, images(2), cost_lambda=0.1, output_all_paths=True)
        with torch.inference_mode():
            found = sole(engine)(images(2), cost_lambda=0.1, output_all_paths=True)
        torch.testing.assert_close(found.all_logits, expected.all_logits, **FLOATS)

    def test_streams_are_the_same(self, engine):
        expected = with_weights(engine, images(8), cost_lambda=0.1)
        outputs = sole(engine).classify_stream(images(8).split(3), cost_lambda=0.1, batch_size=2)
        torch.testing.assert_close(torch.cat([each.logits for each in outputs]), expected.logits, **FLOATS)

    def test_a_loaded_model_leaves_its_file(self, engine, tmp_path):
        routable().save_pretrained(tmp_path)
        model = quee_hf.QuEEForImageClassification.from_pretrained(tmp_path)
        before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
        heads = copy.deepcopy(model.heads.state_dict())
        sole(engine, model)
        for name, tensor in model.heads.state_dict().items():
            assert tensor.data_ptr() != before[f"heads.{name}"]
            assert torch.equal(tensor, heads[name])
        assert all(parameter.requires_grad for parameter in model.heads[:-1].parameters())


class TestMemory:
    @every_engine
    def test_no_block_keeps_a_tensor(self, engine):
        blocks = sole(engine).trunk.blocks
        assert {tensor.device.type for tensor in (*blocks.parameters(), *blocks.buffers())} == {"meta"}

    def test_weights_go_one_segment_after_the_other(self, monkeypatch):
        from quee_hf.execution.engines.torch_int8 import TorchInt8Engine

        seen, advance = [], TorchInt8Engine.advance

        def spy(self, segment, level, hidden, before):
            blocks = self.source.trunk.blocks
            seen.append((segment, level, [block.norm1.weight.is_meta for block in blocks]))
            return advance(self, segment, level, hidden, before)

        monkeypatch.setattr(TorchInt8Engine, "advance", spy)
        sole("torch_int8", levels=[8, 6])
        assert seen == [
            (segment, level, [number < start for number in range(4)])
            for segment, start in enumerate([0, 1, 2])
            for level in ([8] if segment == 0 else [8, 6])
        ]


class TestWhatIsPrepared:
    def test_every_level_that_a_path_has(self):
        assert choosable_levels(routable(levels=[8, 6, 4])) == [[8], [8, 6, 4], [8, 6, 4]]

    def test_by_time_what_is_not_dominated(self):
        model = routable(levels=[8, 6, 4])
        # 6 bits take as long as 8; 4 bits save time in the second segment only.
        model.config.cost_table = [[1.0, 1.0, 1.0], [1.0, 1.0, 0.5], [2.0, 2.0, 2.0]]
        model.set_cost_model("latency")
        assert choosable_levels(model) == [[8], [8, 4], [8, 4]]

    def test_without_trained_gates_the_most_exact(self):
        model = routable(levels=["bf16", 8, 4])
        model.config.trained_parts = []
        assert choosable_levels(model) == [["bf16"]] * 3

    @every_engine
    def test_of_a_path_that_is_not_there_the_segment_and_the_level_are_named(self, engine):
        model = routable(levels=[8, 6])
        model.config.trained_parts = ["heads"]
        sole(engine, model)
        message = r"Segment 2 at level 6 was not prepared .* '{}'.*1: \[8\]; 2: \[8\]; 3: \[8\].*Load the model again"
        with torch.inference_mode():
            assert torch.isfinite(model(images(2)).logits).all()
            with pytest.raises(NotReadyError, match=message.format(engine)):
                model(images(2), path=[8, 6])
            with pytest.raises(NotReadyError, match="at level 6 was not prepared"):
                model(images(2), output_all_paths=True)

    def test_what_another_cost_model_wants_is_missed(self):
        model = routable(levels=[8, 4])
        model.config.cost_table = [[1.0, 1.0]] * 3
        model.set_cost_model("latency")
        sole("torch_int8", model).config.cost_model = "bitops"
        with torch.inference_mode(), pytest.raises(NotReadyError, match="at level 4 was not prepared"):
            model(images(8), cost_lambda=mixed_lambdas(8))


@pytest.fixture(scope="module")
def held():
    """A model that no test may change."""
    return sole("torch_int8")


class TestWhatIsLost:
    @pytest.mark.parametrize(
        "use",
        [
            lambda model, folder: model.save_pretrained(folder / "model"),
            lambda model, folder: model.push_to_hub("org/model"),
            lambda model, folder: model.state_dict(),
            lambda model, folder: model.load_state_dict(routable().state_dict()),
            lambda model, folder: model.train(),
            lambda model, folder: model.set_engine("torch"),
            lambda model, folder: model.set_cost_model("flops"),
            lambda model, folder: model.set_engine("torch_int8", keep_weights=False),
            lambda model, folder: model.to(torch.bfloat16),
            lambda model, folder: model.to("meta"),
            lambda model, folder: model.run_segment(0, 8, torch.zeros(1, 17, 32)),
            lambda model, folder: quantize(model, images(4)),
            lambda model, folder: calibrate(model, images(4)),
            lambda model, folder: quee_hf.profile(model, max_seconds=1),
            lambda model, folder: model.fit_operating_points(RandomImages()),
            lambda model, folder: copy.deepcopy(model),
            lambda model, folder: pickle.dumps(model),
        ],
        ids=[
            *("save", "push", "state", "load", "train", "engine", "costs", "again", "cast", "move"),
            *("run", "quantize", "calibrate", "profile", "fit", "copy", "pickle"),
        ],
    )
    def test_is_refused_and_the_model_still_runs(self, held, tmp_path, use):
        with torch.inference_mode():
            expected = held(images(2), cost_lambda=0.1).logits
        with pytest.raises(NotReadyError, match=GONE.format("torch_int8")):
            use(held, tmp_path)
        assert held.engine == "torch_int8"
        assert not list(tmp_path.iterdir())
        with torch.inference_mode():
            assert torch.equal(held(images(2), cost_lambda=0.1).logits, expected)

    def test_a_level_cannot_be_added(self):
        model = wrap(VARIANTS["vit"].build(), levels=[8])
        calibration = quantize(model, images(4), method="min_max")
        sole("torch_int8", model)
        with pytest.raises(NotReadyError, match=GONE.format("torch_int8")):
            add_level(model, 6, calibration)

    def test_moves_that_change_nothing_are_none(self, held):
        assert held.to("cpu") is held
        assert held.float().eval() is held
        assert held.device.type == "cpu"


class TestRefusedBeforehand:
    """The model is then what it was."""

    def assert_whole(self, model, engine=REFERENCE):
        assert model.engine == engine
        assert not any(tensor.is_meta for tensor in model.state_dict().values())

    def test_the_models_own_modules(self):
        model = routable()
        with pytest.raises(ValueError, match="'torch' is the model's own modules, which need their weights"):
            sole("torch", model)
        self.assert_whole(model)

    def test_an_unknown_engine(self):
        model = routable()
        with pytest.raises(ValueError, match="got 'tensorrt'"):
            sole("tensorrt", model)
        self.assert_whole(model)

    @every_engine
    def test_a_model_that_the_engine_cannot_compute(self, engine):
        model = wrap(VARIANTS["vit"].build(), levels=["bf16", 8])
        # The first segment could be computed.
        quantize(model, images(4), method="ptq4vit", keep=dict.fromkeys(EARLY, "bf16"))
        model.config.trained_parts = ["gates", "heads"]
        with pytest.raises(ValueError, match="No integer kernel computes"):
            sole(engine, model)
        self.assert_whole(model)

    @every_engine
    def test_an_unquantized_model(self, engine):
        model = wrap(VARIANTS["vit"].build(), levels=[8])
        with pytest.raises(NotReadyError, match=r"call `quee_hf\.quantize`"):
            sole(engine, model)
        self.assert_whole(model)

    def test_a_model_elsewhere(self):
        model = routable().to("meta")
        with pytest.raises(NotReadyError, match="'openvino' runs on the CPU; the model is on meta"):
            sole("openvino", model)
        assert model.engine == REFERENCE

    def test_training_mode(self):
        model = routable().train()
        with pytest.raises(NotReadyError, match=r"call `model\.eval\(\)` first"):
            model.set_engine("torch_int8", keep_weights=False)
        self.assert_whole(model)


def test_the_fastest_engine_is_one_that_can():
    model = wrap(VARIANTS["vit"].build(), levels=[8])
    quantize_fast(model)
    assert sole("auto", model).engine in EVERY
    assert torch.isfinite(model(images(2)).logits).all()
