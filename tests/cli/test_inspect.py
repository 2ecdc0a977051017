"""Tests of `quee inspect`."""

import json

from quee_hf import QuEEForImageClassification


def test_json_is_what_the_model_says(built, quee):
    result = quee("inspect", built / "model", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    model = QuEEForImageClassification.from_pretrained(built / "model")
    assert found["exit_blocks"] == list(model.config.exit_blocks)
    assert found["levels"] == model.level_list
    assert [tuple(model.level_list.index(level) for level in row["path"]) for row in found["paths"]] == list(
        model.paths
    )
    assert [row["cost"] for row in found["paths"]] == [round(float(cost), 6) for cost in model.router.costs]
    assert found["size_bytes"] == (built / "model" / "model.safetensors").stat().st_size
    assert len(found["operating_points"]) > 3


def test_text_names_the_essentials(built, quee):
    text = quee("inspect", built / "model").stdout
    for part in ("exits after blocks", "repq", "Operating points", "after block", "MB"):
        assert part in text


def test_a_stock_model_is_refused(root, quee):
    result = quee("inspect", root / "model")
    assert result.exit_code == 2
    assert "not a QuEE model" in result.stderr
