"""Tests of engines: they give what the model's own modules give, and follow the model."""

import copy
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.tiny import VARIANTS, every_variant, images, mixed_lambdas, quantize_fast, untrained_gates, wrap

from quee_hf import MissingExtraError, NotReadyError, quantize
from quee_hf.execution import engines
from quee_hf.execution.engines import ENGINES, REFERENCE, choice, make_engine

FLOATS = {"rtol": 1e-4, "atol": 1e-4}  # sums of float32 in another order, through all blocks
every_engine = pytest.mark.parametrize("engine", [name for name in ENGINES if name != REFERENCE])


def routable(variant="vit", **fields):
    model = wrap(VARIANTS[variant].build(), **fields)
    if any(not isinstance(level, str) for level in model.level_list):
        quantize_fast(model)
    with torch.no_grad():
        untrained_gates(model)
    return model.eval()


@torch.inference_mode()
def both(model, engine, pixel_values, **route):
    """Return what the model's own modules give, and what an engine does."""
    if model.engine != engine:
        model.set_engine(engine)
    found = model(pixel_values, **route)
    model.set_engine(REFERENCE)
    return model(pixel_values, **route), found


@every_engine
class TestResults:
    @every_variant
    def test_in_full_precision_equal_the_models_own(self, engine, variant):
        model = wrap(variant.build()).eval()
        expected, found = both(model, engine, images(3, variant.image_size))
        torch.testing.assert_close(found.logits, expected.logits, **FLOATS)
        assert found.logits.dtype == torch.float32

    def test_routes_are_the_same(self, engine):
        expected, found = both(routable(), engine, images(16), cost_lambda=mixed_lambdas(16))
        assert len(set(map(tuple, found.path.tolist()))) >= 2
        assert torch.equal(found.path, expected.path)
        torch.testing.assert_close(found.logits, expected.logits, **FLOATS)
        torch.testing.assert_close(found.error_probability, expected.error_probability, **FLOATS)

    def test_what_is_no_number_is_not_believed(self, engine):
        pixel_values = images(4)
        pixel_values[1] = torch.nan
        _, found = both(routable(), engine, pixel_values, cost_lambda=0.1)
        assert found.error_probability.isnan().tolist() == [False, True, False, False]

    def test_images_of_another_shape_are_refused(self, engine):
        model = routable()
        model.set_engine(engine)
        with pytest.raises(
            ValueError, match=r"must be \(batch, channels, height, width\), got shape \(3, 32"
        ):
            model(images(1)[0], cost_lambda=0.1)
        if engine != "torch_int8":  # whose embedding is the model's own
            for route in ({"cost_lambda": 0.1}, {"path": model.level_list[:1]}):
                with pytest.raises(ValueError, match=r"runs images of \(3, 32, 32\), got \(3, 40, 32\)"):
                    model(torch.zeros(1, 3, 40, 32), **route)

    @pytest.mark.parametrize("level", [8, "bf16"])
    def test_other_levels_are_near(self, engine, level):
        """A code more or less here and there, or eight bits of a float: a few hundredths of the logits."""
        model = routable(levels=["bf16", 8])
        expected, found = both(model, engine, images(16), path=[level] * 3)
        assert (found.logits - expected.logits).norm() < 0.05 * expected.logits.norm()

    def test_paths_one_after_the_other(self, engine):
        model = routable(levels=["fp32", "bf16"])
        pixel_values = images(3)
        for path in (["fp32"] * 3, ["fp32"], ["fp32", "bf16"], ["fp32"] * 3):
            expected, found = both(model, engine, pixel_values, path=path)
            tolerance = 0.05 if "bf16" in path else 1e-4
            assert (found.logits - expected.logits).norm() < tolerance * expected.logits.norm()

    def test_all_paths_are_those_of_the_tree(self, engine):
        expected, found = both(routable(), engine, images(2), cost_lambda=0.1, output_all_paths=True)
        torch.testing.assert_close(found.all_logits, expected.all_logits, **FLOATS)

    def test_batches_of_any_sizes(self, engine):
        model = routable(levels=["fp32", "bf16"])
        for size in (4, 4, 1, 3, 0, *[2] * 10, 5):
            expected, found = both(model, engine, images(size), path=["fp32"] * 3)
            torch.testing.assert_close(found.logits, expected.logits, **FLOATS)
            expected, found = both(model, engine, images(size), cost_lambda=0.1)
            assert torch.equal(found.path, expected.path)

    def test_threads_do_not_mix_results(self, engine):
        model, pixel_values = routable(), images(32)
        model.set_engine(engine)
        with torch.inference_mode():
            expected = model(pixel_values).logits

        def classify(start):
            with torch.inference_mode():
                return model(pixel_values[start : start + 4]).logits

        with ThreadPoolExecutor(4) as pool:
            found = torch.cat(list(pool.map(classify, range(0, 32, 4))))
        torch.testing.assert_close(found, expected, **FLOATS)

    def test_signals_are_handled_after_engines_are_gone(self, engine):
        """Such as that a worker process has ended, by which data loaders live."""
        for model in [routable(), routable()]:
            model.set_engine(engine)
            model(images(1))
        del model
        received = []
        before = signal.signal(signal.SIGUSR1, lambda *_: received.append(True))
        signal.raise_signal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
        assert received == [True]


@every_engine
class TestModel:
    def test_an_engine_follows_the_weights(self, engine):
        model, pixel_values = routable(), images(3)
        model.set_engine(engine)
        with torch.inference_mode():
            model(pixel_values)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        state["heads.2.network.bias"] += 1
        state["trunk.norm.bias"] += 0.5
        model.load_state_dict(state)
        expected, found = both(model, engine, pixel_values)
        torch.testing.assert_close(found.logits, expected.logits, **FLOATS)

    def test_training_uses_the_models_own_modules(self, engine):
        model, pixel_values = routable(), images(4)
        model.set_engine(engine)
        with torch.inference_mode():
            model(pixel_values, path=["fp32"])
        model.train()
        loss = model(pixel_values, labels=torch.arange(4)).loss
        loss.backward()
        with torch.no_grad():
            model.heads[0].network.bias.add_(3)
        model.eval()
        expected, found = both(model, engine, pixel_values, path=["fp32"])
        torch.testing.assert_close(found.logits, expected.logits, **FLOATS)

    @pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_a_copy_has_an_engine_of_its_own(self, engine, clone):
        model, pixel_values = routable(), images(2)
        model.set_engine(engine)
        with torch.inference_mode():
            expected = model(pixel_values).logits
            other = clone(model)
            assert other.engine == engine
            other.heads[-1].network.bias.data.add_(1)
            torch.testing.assert_close(other(pixel_values).logits, expected + 1, **FLOATS)
            torch.testing.assert_close(model(pixel_values).logits, expected, **FLOATS)

    def test_another_trunk_is_run(self, engine):
        model, pixel_values = routable(), images(2)
        model.set_engine(engine)
        with torch.inference_mode():
            model(pixel_values)
        quantized = routable(levels=[8])
        model.replace_trunk(quantized.trunk, [8])
        model.config.quantization = quantized.config.quantization
        expected, found = both(model, engine, pixel_values, path=[8, 8, 8])
        assert (found.logits - expected.logits).norm() < 0.05 * expected.logits.norm()

    def test_evaluation_mode_twice_compiles_once(self, engine):
        model = routable()
        model.set_engine(engine)
        with torch.inference_mode():
            model(images(1))
            compiled = dict(model._engine._programs)
            model.eval()(images(2))
        assert compiled == model._engine._programs

    def test_an_unquantized_model_says_what_is_missing(self, engine):
        model = wrap(VARIANTS["vit"].build(), levels=[8]).eval()
        model.set_engine(engine)
        with torch.inference_mode(), pytest.raises(NotReadyError, match=r"call `quee_hf\.quantize`"):
            model(images(1))

    def test_a_model_in_half_precision_runs(self, engine):
        model, pixel_values = routable(), images(2)
        with torch.inference_mode():
            expected = model(pixel_values).logits
            model.to(torch.bfloat16).set_engine(engine)
            found = model(pixel_values.to(torch.bfloat16)).logits
        assert (found - expected).norm() < 0.05 * expected.norm()

    def test_images_elsewhere_are_refused(self, engine):
        model = routable()
        model.set_engine(engine)
        with pytest.raises(NotReadyError, match=f"'{engine}' runs on the CPU.*; the model is on meta"):
            model(images(1).to("meta"))

    def test_what_an_engine_cannot_compute_says_so(self, engine):
        from quee_hf import quantize

        model = wrap(VARIANTS["vit"].build(), levels=[8])
        quantize(model, images(4), method="torch_dynamic")
        model.eval().set_engine(engine)
        with torch.inference_mode(), pytest.raises(ValueError, match="No integer kernel computes"):
            model(images(1))


def test_the_reference_is_where_a_model_starts():
    model = routable()
    assert model.engine == REFERENCE
    model.set_engine(REFERENCE)
    assert model.engine == REFERENCE


class TestFastest:
    @pytest.fixture
    def clock(self, monkeypatch):
        """Seconds that a run on each engine is said to take; engines it does not name are not installed."""
        seconds = {}

        def make(name, source):
            if name not in seconds:
                raise MissingExtraError(name)
            return make_engine(name, source)

        def measure(network, images, path):
            engine = getattr(network, "_engine", None)
            return seconds[REFERENCE if engine is None else engine.name]

        monkeypatch.setattr(engines, "make_engine", make)
        monkeypatch.setattr(choice, "_seconds", measure)
        return seconds

    @pytest.mark.parametrize("winner", ["torch", "torch_int8", "openvino"])
    def test_is_taken(self, clock, winner):
        clock |= {"torch": 3.0, "torch_int8": 3.0, "openvino": 3.0, winner: 1.0}
        model = routable()
        model.set_engine("auto")
        assert model.engine == winner
        expected, found = both(model, winner, images(4), path=["fp32"] * 3)
        torch.testing.assert_close(found.logits, expected.logits, **FLOATS)

    def test_what_cannot_run_the_model_is_left_out(self, clock):
        clock |= {"torch": 3.0, "openvino": 1.0}
        model = wrap(VARIANTS["vit"].build(), levels=[8])
        quantize(model, images(4), method="repq", log=True)
        with pytest.warns(UserWarning, match="'openvino' cannot run this model: No integer kernel"):
            model.set_engine("auto")
        assert model.engine == "torch"

    def test_needs_a_quantized_model(self, clock):
        clock |= {"torch": 1.0}
        with pytest.raises(NotReadyError, match="call `quee_hf.quantize` first"):
            wrap(VARIANTS["vit"].build(), levels=[8]).set_engine("auto")

    def test_is_found_by_running_them(self):
        model = routable()
        model.set_engine("auto")
        assert model.engine in ENGINES


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match=r"`engine` must be one of \['torch', .*, got 'tensorrt'"):
        routable().set_engine("tensorrt")


def test_a_missing_engine_names_its_extra(monkeypatch):
    def refuse(name):
        raise ImportError("No module named 'openvino'")

    monkeypatch.setattr(engines, "import_module", refuse)
    model = routable()
    with pytest.raises(MissingExtraError, match=r"pip install quee-hf\[openvino\]"):
        model.set_engine("openvino")
    assert model.engine == REFERENCE
