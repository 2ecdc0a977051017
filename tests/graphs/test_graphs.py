"""Tests of ONNX graphs against the modules that they are made from."""

import numpy as np
import onnxruntime
import pytest
import torch
from tests.tiny import VARIANTS, every_variant, images, quantize_fast, untrained_gates, wrap

from quee_hf import QuEEForImageClassification, quantize
from quee_hf.blueprint import image_size, num_tokens
from quee_hf.configuration import GATE_FEATURES, GATE_TYPES
from quee_hf.exits.heads import HEADS
from quee_hf.graphs.activations import add_activation
from quee_hf.graphs.builder import GraphBuilder
from quee_hf.graphs.embedding import Embedding, embedding_graph
from quee_hf.graphs.exits import ClassEmbeddings, Exit, exit_graph
from quee_hf.graphs.segments import Segment, segment_graph
from quee_hf.graphs.steps import gate_graph, last_step_graph, path_graph, step_graph
from quee_hf.quantization.affine import WeightCodes
from quee_hf.quantization.integer import centred

FLOATS = {"rtol": 1e-4, "atol": 1e-4}  # sums of float32 in another order, through two blocks


def run(graph, *inputs):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {each.name: x.numpy() for each, x in zip(graph.graph.input, inputs, strict=True)}
    return [torch.from_numpy(found) for found in session.run(None, given)]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def parts(model, exit_index):
    classes = None
    if model.config.logit_scale is not None:
        classes = ClassEmbeddings(model.get_buffer("class_embeddings"), model.config.logit_scale)
    return Exit(model.trunk.norm, model.heads[exit_index], num_tokens(model.config), classes)


def embedding(model):
    return Embedding(model.trunk, image_size(model.config))


def segment(model, start, stop, level):
    return Segment(model.trunk.blocks[start:stop], level, num_tokens(model.config))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


class TestEmbedding:
    @every_variant
    def test_equals_the_trunks(self, variant):
        with torch.inference_mode(False):
            model = wrap(variant.build(num_blocks=1), exit_blocks=[1])
        pixel_values = images(3, variant.image_size)
        (found,) = run(embedding_graph(embedding(model), num_tokens(model.config)), pixel_values)
        torch.testing.assert_close(found, model.embed(pixel_values), **FLOATS)

    @pytest.mark.parametrize("size", [56, 60])
    def test_positions_of_another_size_are_interpolated_once(self, size):
        with torch.inference_mode(False):
            model = wrap(VARIANTS["dinov2"].build(num_blocks=1), exit_blocks=[1], image_size=size)
        pixel_values = images(2, size)
        (found,) = run(embedding_graph(embedding(model), num_tokens(model.config)), pixel_values)
        torch.testing.assert_close(found, model.embed(pixel_values), **FLOATS)

    def test_overlapping_patches_are_refused(self):
        with torch.inference_mode(False):
            model = wrap(VARIANTS["vit"].build(num_blocks=1), exit_blocks=[1])
        parts = embedding(model)
        parts.convolution.stride = (1, 1)
        with pytest.raises(ValueError, match=r"in steps of \(1, 1\)"):
            embedding_graph(parts, num_tokens(model.config))


class TestExit:
    @every_variant
    @pytest.mark.parametrize("head_type", HEADS)
    def test_equals_the_models(self, variant, head_type):
        with torch.inference_mode(False):
            model = wrap(variant.build(num_blocks=2), exit_blocks=[1, 2], head_type=head_type)
        hidden = model.embed(images(3, variant.image_size))
        for index in range(2):
            expected = model.read_exit(index, hidden)
            logits, variance = run(exit_graph(parts(model, index)), hidden)
            torch.testing.assert_close(logits, expected.logits, **FLOATS)
            torch.testing.assert_close(variance, expected.variance, **FLOATS)


class TestStep:
    @pytest.mark.parametrize("gate_features", GATE_FEATURES)
    @pytest.mark.parametrize("gate_type", GATE_TYPES)
    @pytest.mark.parametrize("variant", ["vit", "clip"])
    def test_equals_the_models(self, variant, gate_type, gate_features):
        with torch.inference_mode(False):
            fields = {"levels": ["fp32", "bf16"], "gate_type": gate_type, "gate_features": gate_features}
            model = wrap(VARIANTS[variant].build(num_blocks=4), exit_blocks=[1, 2, 3, 4], **fields).eval()
            with torch.no_grad():
                untrained_gates(model)
        hidden, seen = model.embed(images(5, VARIANTS[variant].image_size)), None
        for index in range(3):
            expected = model.advance(index, "fp32", hidden, seen)
            given = [hidden] if seen is None else [hidden, seen]
            made_of = segment(model, index, index + 1, "fp32"), parts(model, index)
            result, *reached = run(step_graph(*made_of, model.gates, index + 1), *given)
            torch.testing.assert_close(result, expected.hidden, **FLOATS)
            for one, other in zip(reached, expected.reached, strict=True):
                torch.testing.assert_close(one, other, **FLOATS)
            hidden, seen = expected.hidden, expected.reached.seen
        (logits,) = run(last_step_graph(segment(model, 3, 4, "fp32"), parts(model, 3)), hidden)
        expected = model.advance(3, "fp32", hidden, seen).reached.logits
        torch.testing.assert_close(logits, expected, **FLOATS)


class TestGate:
    @pytest.mark.parametrize("gate_features", GATE_FEATURES)
    @pytest.mark.parametrize("gate_type", GATE_TYPES)
    def test_alone_says_what_it_says_in_a_step(self, gate_type, gate_features):
        with torch.inference_mode(False):
            fields = {"levels": ["fp32"], "gate_type": gate_type, "gate_features": gate_features}
            model = wrap(VARIANTS["vit"].build(), **fields).eval()
            with torch.no_grad():
                untrained_gates(model)
        hidden, seen = model.embed(images(5)), None
        for index in range(2):
            parts_of_step = segment(model, *model.config.segments[index], "fp32"), parts(model, index)
            given = [hidden] if seen is None else [hidden, seen]
            hidden, _, known, scores = run(step_graph(*parts_of_step, model.gates, index + 1), *given)
            found = run(exit_graph(parts(model, index)), hidden)
            found = run(gate_graph(model.gates, index + 1), *found, *given[1:])
            torch.testing.assert_close(found[0], known, **FLOATS)
            torch.testing.assert_close(found[1], scores, **FLOATS)
            seen = known


class TestPath:
    @every_variant
    def test_equals_the_models(self, variant):
        with torch.inference_mode(False):
            model = wrap(variant.build(num_blocks=3), exit_blocks=[1, 2, 3], levels=["fp32"])
        pixel_values = images(3, variant.image_size)
        for depth in (1, 2, 3):
            segments = [segment(model, index, index + 1, "fp32") for index in range(depth)]
            (found,) = run(path_graph(embedding(model), segments, parts(model, depth - 1)), pixel_values)
            torch.testing.assert_close(found, model.run_path(pixel_values, (0,) * depth), **FLOATS)


class TestSegment:
    @every_variant
    def test_in_floats_equals_the_blocks(self, variant):
        with torch.inference_mode(False):
            model = wrap(variant.build(num_blocks=2), exit_blocks=[2])
        hidden = model.embed(images(3, variant.image_size))
        graph = segment_graph(segment(model, 0, 2, "fp32"))
        torch.testing.assert_close(
            run(graph, hidden)[0], model.trunk.run_blocks(hidden, 0, 2, "fp32"), **FLOATS
        )

    @pytest.mark.parametrize("method", ["repq", "mse"])
    @pytest.mark.parametrize("bits", [8, 6, 4])
    def test_at_integer_levels_equals_a_block(self, method, bits):
        """But for numbers in the middle between two codes; a wrong offset or range is off by far more."""
        with torch.inference_mode(False):
            model = wrap(VARIANTS["dinov2"].build(num_blocks=1), exit_blocks=[1], levels=[8, 6, 4])
            quantize(model, images(8, 28), method=method)
        hidden = model.embed(images(6, 28, seed=1))
        (found,) = run(segment_graph(segment(model, 0, 1, bits)), hidden)
        assert relative(found, model.trunk.run_blocks(hidden, 0, 1, bits)) < 0.01

    def test_products_that_are_kept_run_at_their_own_level(self):
        with torch.inference_mode(False):
            model = wrap(VARIANTS["vit"].build(num_blocks=1), exit_blocks=[1], levels=[4])
            quantize(model, images(8), method="min_max", keep={"1.fc1": "fp32", "1.fc2": 8})
        hidden = model.embed(images(6, seed=1))
        (found,) = run(segment_graph(segment(model, 0, 1, 4)), hidden)
        assert relative(found, model.trunk.run_blocks(hidden, 0, 1, 4)) < 0.01

    @pytest.mark.parametrize(("method", "quantizer"), [("ptq4vit", "Twin"), ("torch_dynamic", "Dynamic")])
    def test_what_no_kernel_computes_is_refused(self, method, quantizer):
        with torch.inference_mode(False):
            model = wrap(VARIANTS["vit"].build(num_blocks=1), exit_blocks=[1], levels=[8])
            quantize(model, images(4), method=method)
        with pytest.raises(ValueError, match=f"No integer kernel computes .* {quantizer}"):
            segment_graph(segment(model, 0, 1, 8))

    def test_weights_are_stored_in_a_byte_each(self):
        with torch.inference_mode(False):
            model = wrap(VARIANTS["vit"].build(num_blocks=1), exit_blocks=[1], levels=[8])
            quantize_fast(model)
        graph = segment_graph(segment(model, 0, 1, 8))
        codes = sum(product.load_codes(8).codes.numel() for product in linears(model))
        assert codes <= graph.ByteSize() < 3 * codes


def linears(model: QuEEForImageClassification):
    return [part for part in model.trunk.blocks[0].products.values() if hasattr(part, "load_codes")]


class TestCentred:
    def test_whole_steps_vanish_below_8_bits(self):
        codes = torch.tensor([[-8, 7, 0], [-8, 7, 3]], dtype=torch.int8)
        scale = torch.tensor([0.5, 0.1])
        given = WeightCodes(codes, scale, torch.tensor([3.0, -2.0]) * scale)
        found = centred(given)
        assert found.offset is None
        assert found.codes.tolist() == [[-5, 10, 3], [-10, 5, 1]]

    @pytest.mark.parametrize("bits", [2, 4, 7, 8])
    def test_the_weight_stays_the_same(self, bits):
        random = torch.Generator().manual_seed(bits)
        half = 2 ** (bits - 1)
        codes = torch.randint(-half, half, (9, 50), generator=random).to(torch.int8)
        scale = torch.rand(9, generator=random) + 0.1
        offset = 40 * (torch.rand(9, generator=random) - 0.5)
        found = centred(WeightCodes(codes, scale, offset))
        left = torch.zeros(9) if found.offset is None else found.offset
        expected = codes * scale[:, None] + offset[:, None]
        torch.testing.assert_close(found.codes * scale[:, None] + left[:, None], expected)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"])
def test_activations_equal_transformers(name):
    from transformers.activations import ACT2FN

    graph, x = GraphBuilder("x", (9,)), torch.linspace(-4, 4, 9)[None]
    graph.output(add_activation(graph, graph.input, name), "y", (9,))
    torch.testing.assert_close(run(graph.model("activation"), x)[0], ACT2FN[name](x), rtol=1e-5, atol=1e-6)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="no graph for the activation 'mish'"):
        add_activation(GraphBuilder("x", (1,)), "x", "mish")


def test_constants_of_each_kind():
    graph = GraphBuilder("x", (2,))
    total = graph.add("Add", graph.input, graph.constant(np.array([1.0, 2.0])))
    graph.output(graph.add("Reshape", total, graph.constant([-1, 2])), "y", (2,))
    assert run(graph.model("sum"), torch.zeros(1, 2))[0].tolist() == [[1.0, 2.0]]
