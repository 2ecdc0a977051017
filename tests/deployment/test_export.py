"""Tests of `export_onnx`: whole folders or none, and nothing of somebody else's is replaced."""

import json
import sys

import numpy as np
import onnx
import pytest
import torch
from tests.deployment.deployed import export, processor
from tests.tiny import VARIANTS, images, routable, wrap

from quee_hf import MissingExtraError, NotReadyError
from quee_hf.deployment import export as export_module
from quee_hf.deployment import export_onnx
from quee_hf.deployment.host import HostRouter

OTHERS = ["handler.py", "quee_images.py", "quee_router.py", "requirements.txt", "router.json"]


@pytest.fixture
def model():
    return routable(levels=["fp32", 8]).eval()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_file_for_each_segment_and_level_head_and_gate(model, tmp_path):
    folder = export(model, tmp_path / "new" / "model")
    segments = [f"segment_{part}_level_{level}.onnx" for part in (1, 2, 3) for level in (8, "fp32")]
    heads, gates = [f"head_{part}.onnx" for part in (1, 2, 3)], ["gate_1.onnx", "gate_2.onnx"]
    assert names(folder) == sorted(["embedding.onnx", *segments, *heads, *gates, *OTHERS])
    for file in folder.glob("*.onnx"):
        onnx.checker.check_model(str(file), full_check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_integer_levels_are_integers_in_the_files(model, tmp_path):
    folder = export(model, tmp_path / "model")
    kinds = {node.op_type for node in onnx.load(folder / "segment_1_level_8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    size = {level: (folder / f"segment_3_level_{level}.onnx").stat().st_size for level in (8, "fp32")}
    assert size[8] < 0.5 * size["fp32"]


def test_costs_and_lambdas_are_exact(model, tmp_path):
    model.config.cost_lambda = torch.inf
    folder = export(model, tmp_path / "model")
    described = HostRouter(folder).description
    assert np.array_equal(np.array(described.path_costs, np.float32), model.router.costs.numpy())
    assert described.cost_lambda == np.inf
    json.loads((folder / "router.json").read_text(), parse_constant=pytest.fail)


def test_the_same_model_gives_the_same_bytes(model, tmp_path):
    first, second = export(model, tmp_path / "first"), export(model, tmp_path / "second")
    for name in names(first):
        assert (first / name).read_bytes() == (second / name).read_bytes()


class TestTarget:
    def test_an_empty_folder_is_written_to(self, model, tmp_path):
        (tmp_path / "model").mkdir()
        assert "router.json" in names(export(model, tmp_path / "model"))

    def test_another_folder_is_refused(self, model, tmp_path):
        (tmp_path / "mine.txt").touch()
        with pytest.raises(ValueError, match="is not empty: name another directory"):
            export_onnx(model, tmp_path)
        with pytest.raises(ValueError, match=r"holds more than an earlier export.*: mine.txt"):
            export_onnx(model, tmp_path, overwrite=True)
        assert names(tmp_path) == ["mine.txt"]

    def test_a_file_is_refused(self, model, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="is not a directory"):
            export_onnx(model, tmp_path / "file")

    def test_an_earlier_export_is_replaced_if_asked_for(self, model, tmp_path):
        folder = export(model, tmp_path / "model")
        (folder / "__pycache__").mkdir()
        other = routable(levels=["fp32", 6])
        with pytest.raises(ValueError, match="not empty"):
            export_onnx(other, folder)
        export_onnx(other, folder, processor(), overwrite=True)
        assert HostRouter(folder).description.levels == ["fp32", 6]
        assert not list(folder.glob("*level_8*"))
        assert names(tmp_path) == ["model"]

    def test_a_failure_leaves_nothing_and_replaces_nothing(self, model, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError("No space left on device")

        folder = export(model, tmp_path / "model")
        before = {name: (folder / name).read_bytes() for name in names(folder)}
        monkeypatch.setattr(export_module, "gate_graph", fail)
        for target in (tmp_path / "model", tmp_path / "other"):
            with pytest.raises(OSError, match="No space left"):
                export_onnx(routable(levels=["fp32", 6]), target, overwrite=True)
        assert {name: (folder / name).read_bytes() for name in names(folder)} == before
        assert names(tmp_path) == ["model"]


class TestModel:
    def test_that_is_not_quantized_is_refused(self, tmp_path):
        with pytest.raises(NotReadyError, match="Level 8 needs quantized weights"):
            export_onnx(wrap(VARIANTS["vit"].build(), levels=[8]), tmp_path / "model")
        assert names(tmp_path) == []

    def test_whose_weights_are_gone_is_refused(self, model, tmp_path):
        model.set_engine("onnxruntime", keep_weights=False)
        with pytest.raises(NotReadyError):
            export_onnx(model, tmp_path / "model")
        assert names(tmp_path) == []

    def test_stays_as_it_was(self, model, tmp_path):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        engine = model.engine
        export(model, tmp_path / "model")
        assert model.engine == engine
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])

    def test_without_a_processor_takes_pixel_values(self, model, tmp_path):
        export_onnx(model, tmp_path / "model")
        host = HostRouter(tmp_path / "model")
        assert host.description.preprocessing is None
        assert host(images(2).numpy()).logits.shape == (2, 5)


def test_what_is_missing_is_named(model, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "quee_hf.deployment.export", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install quee-hf\[onnxruntime\]"):
        export_onnx(model, tmp_path / "model")
