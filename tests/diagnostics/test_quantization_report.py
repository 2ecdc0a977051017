"""Tests of `quee_hf.diagnostics.quantization_report` and of its picture."""

import json
import math

import pytest
import torch
from matplotlib.figure import Figure
from tests.tiny import NUM_BLOCKS, VARIANTS, images, wrap

from quee_hf.diagnostics.quantization_plot import plot_quantization
from quee_hf.diagnostics.quantization_report import describe_quantization, level_size_bytes
from quee_hf.ptq import PTQ_METHODS
from quee_hf.quantize import calibrate, quantize
from quee_hf.schemes import PRODUCTS

LEVELS = [8, 6, 4]
LINEARS = ("qkv", "output", "fc1", "fc2")


def make(levels=LEVELS, variant="vit", keep=None, weight_sharing="independent", **options):
    """Return a quantized model, its calibration, and images."""
    model = wrap(VARIANTS[variant].build(), levels=levels)
    pixel_values = images(6, VARIANTS[variant].image_size)
    calibration = calibrate(model, pixel_values, **options)
    quantize(model, calibration, keep=keep, weight_sharing=weight_sharing)
    return model, calibration, pixel_values


def pick(rows, **wanted):
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


@pytest.fixture(scope="module")
def made():
    return make()


@pytest.fixture(scope="module")
def report(made):
    return describe_quantization(*made)


class TestReport:
    def test_every_tensor_of_every_product_is_there_at_every_level(self, report):
        found = [(row["block"], row["product"], row["tensor"], row["level"]) for row in report["rounding"]]
        expected = [
            (block, product, tensor, level)
            for block in range(1, NUM_BLOCKS + 1)
            for product in PRODUCTS
            for level in LEVELS
            for tensor in (("weight", "input") if product in LINEARS else ("left", "right"))
        ]
        assert found == expected
        assert [(row["block"], row["level"]) for row in report["hidden"]] == [
            (block, level) for block in range(1, NUM_BLOCKS + 1) for level in LEVELS
        ]
        assert report["num_images"] == 6

    def test_is_fit_for_json(self, report):
        assert json.loads(json.dumps(report, allow_nan=False)) == report

    def test_two_bits_fewer_lose_about_twelve_decibels(self, report):
        for row in report["rounding"]:
            if row["level"] == 8:
                (lower,) = pick(report["rounding"], **{**row_place(row), "level": 6})
                # 20 log10(4) = 12.04 for equal steps; searched ranges clip more where steps are coarse. Weights
                # have symmetric ranges at 8 bits, searched for the error of the output alone.
                least = 1 if row["tensor"] == "weight" else 8
                assert least < row["sqnr_db"] - lower["sqnr_db"] < 15, row

    def test_means_are_over_all_products(self, report):
        for summary in report["by_level"]:
            rows = pick(report["rounding"], level=summary["level"])
            weights = [row["sqnr_db"] for row in rows if row["tensor"] == "weight"]
            others = [row["sqnr_db"] for row in rows if row["tensor"] != "weight"]
            assert summary["weight_sqnr_db"] == pytest.approx(sum(weights) / len(weights), abs=1e-5)
            assert summary["activation_sqnr_db"] == pytest.approx(sum(others) / len(others), abs=1e-5)

    def test_relative_error_and_decibels_say_the_same(self, report):
        for row in report["rounding"]:
            # The error is written with four digits.
            assert row["sqnr_db"] == pytest.approx(-10 * math.log10(row["relative_error"]), abs=0.01)


def row_place(row):
    return {name: row[name] for name in ("block", "product", "tensor")}


class TestAgainstTheModel:
    def test_error_of_a_weight_is_what_one_hot_inputs_see(self, made, report):
        model, calibration, _ = made
        layer, exact = model.trunk.blocks[1].mlp.fc2, calibration.trunk.blocks[1].mlp.fc2.weight
        codes = layer.load_codes(4)
        restored = codes.codes * codes.scale[:, None] + codes.offset[:, None]
        error = float((restored - exact).square().sum() / exact.square().sum())
        (row,) = pick(report["rounding"], block=2, product="fc2", tensor="weight", level=4)
        assert row["relative_error"] == pytest.approx(error, rel=1e-3)

    def test_error_of_an_input_is_that_of_the_first_product(self, made, report):
        model, calibration, pixel_values = made
        with torch.no_grad():
            x = calibration.trunk.blocks[0].norm1(calibration.trunk.embed(pixel_values))
            restored = model.trunk.blocks[0].attention.qkv.input.restore(x, 6)
        error = float((restored - x).square().sum() / x.square().sum())
        (row,) = pick(report["rounding"], block=1, product="qkv", tensor="input", level=6)
        assert row["relative_error"] == pytest.approx(error, rel=1e-3)

    def test_cosine_is_that_of_running_the_blocks(self, made, report):
        model, _, pixel_values = made
        exact = wrap(VARIANTS["vit"].build(), levels=LEVELS).trunk
        with torch.no_grad():
            ours = model.trunk.run_blocks(model.trunk.embed(pixel_values), 0, 3, 4).flatten(1)
            theirs = exact.run_blocks(exact.embed(pixel_values), 0, 3, "fp32").flatten(1)
        expected = torch.nn.functional.cosine_similarity(ours, theirs).mean()
        (row,) = pick(report["hidden"], block=3, level=4)
        # Six decimals, and the calibration's trunk is the float one up to the rounding of float32.
        assert row["cosine"] == pytest.approx(float(expected), abs=1e-5)

    @pytest.mark.parametrize("options", [{"method": "repq"}, {"method": "mse", "smoothing": 0.5}])
    def test_reparameterised_weights_are_compared_with_what_they_stand_for(self, options):
        model, calibration, pixel_values = make([8], **options)
        report = describe_quantization(model, calibration, pixel_values)
        # Compared with the weights before, whole columns would differ by their factors.
        assert all(row["relative_error"] < 0.01 for row in pick(report["rounding"], tensor="weight"))

    def test_model_is_left_as_it_was(self, made):
        model, calibration, pixel_values = made
        before = model(pixel_values, path=(4, 4, 4)).logits
        describe_quantization(model, calibration, pixel_values)
        assert torch.equal(before, model(pixel_values, path=(4, 4, 4)).logits)
        assert not model.trunk.blocks[0].attention.is_observed


@pytest.fixture(scope="module")
def kept():
    return describe_quantization(*make(method="min_max", keep={"2.fc2": 8, "*.scores": "fp32"}))


class TestKeptProducts:
    def test_say_at_which_level_they_run(self, kept):
        rows = pick(kept["rounding"], block=2, product="fc2", tensor="weight")
        assert [row["computed_at"] for row in rows] == [8, 8, 8]
        assert len({row["sqnr_db"] for row in rows}) == 1

    def test_lose_nothing_in_full_precision(self, kept):
        rows = pick(kept["rounding"], product="scores")
        assert {(row["computed_at"], row["relative_error"], row["sqnr_db"]) for row in rows} == {
            ("fp32", 0.0, None)
        }

    def test_lose_a_little_in_half_precision(self):
        report = describe_quantization(*make([8], method="min_max", keep={"1.qkv": "bf16"}))
        for row in pick(report["rounding"], block=1, product="qkv"):
            assert 45 < row["sqnr_db"] < 60  # 8 bits of mantissa with the leading one: errors up to 2**-9


@pytest.mark.parametrize("method", PTQ_METHODS)
def test_every_method_can_be_described(method):
    report = describe_quantization(*make([8, 4], method=method))
    eight, four = report["by_level"]
    assert eight["weight_sqnr_db"] > four["weight_sqnr_db"]
    assert eight["cosine"] > four["cosine"]


def test_gated_and_contrastive_models_can_be_described():
    for variant in ("dinov2-swiglu", "clip"):
        assert describe_quantization(*make([8], variant, method="min_max"))["by_level"][0]["cosine"] > 0.9


class TestOutliers:
    def test_one_huge_channel_is_seen(self):
        model = wrap(VARIANTS["vit"].build(), levels=[8])
        with torch.no_grad():
            model.trunk.blocks[0].norm1.bias[3] = 100
        pixel_values = images(4)
        calibration = calibrate(model, pixel_values, method="min_max")
        quantize(model, calibration)
        rows = describe_quantization(model, calibration, pixel_values)["outliers"]
        (row,) = pick(rows, block=1, product="qkv", tensor="input")
        assert row["peak_ratio"] > 20
        # One of 32 channels: far from the mean of all, but the standard deviation grows with it to a sixth.
        assert 0 <= row["share"] <= 1 / 32

    def test_share_and_ratio_by_hand(self, made, report):
        _, calibration, pixel_values = made
        with torch.no_grad():
            x = calibration.trunk.blocks[0].norm1(calibration.trunk.embed(pixel_values))
        (row,) = pick(report["outliers"], block=1, product="qkv", tensor="input")
        peaks = x.abs().reshape(-1, 32).max(dim=0).values.sort().values
        assert row["peak_ratio"] == pytest.approx(float(peaks[-1] / peaks[15]), rel=1e-4)
        assert row["share"] == float(((x - x.mean()).abs() > 6 * x.std()).double().mean())

    def test_channels_of_keys_are_features(self, made, report):
        (row,) = pick(report["outliers"], block=1, product="scores", tensor="right")
        _, calibration, pixel_values = made
        with torch.no_grad():
            block = calibration.trunk.blocks[0]
            qkv = block.attention.qkv(block.norm1(calibration.trunk.embed(pixel_values)), "fp32")
        peaks = qkv[..., 32:64].abs().reshape(-1, 32).max(dim=0).values.sort().values
        assert row["peak_ratio"] == pytest.approx(float(peaks[-1] / peaks[15]), rel=1e-4)


class TestSize:
    def test_by_hand(self, made):
        model, _, _ = made
        weights = 32 * (3 * 32 + 32 + 2 * 48)
        rows = 3 * 32 + 32 + 48 + 32  # each has a scale and an offset
        # A range is a scale and a zero point: one for each linear layer, one per head for each operand.
        ranges = 4 + 2 * 2 * 2
        for bits in LEVELS:
            per_block = weights * bits / 8 + 4 * (2 * rows + 2 * ranges)
            assert level_size_bytes(model, bits) == NUM_BLOCKS * per_block

    def test_float_weights_before_quantization(self):
        model = wrap(VARIANTS["vit"].build(), levels=LEVELS)
        assert level_size_bytes(model, "fp32") == NUM_BLOCKS * 4 * 32 * (3 * 32 + 32 + 2 * 48)

    def test_nested_levels_all_read_the_store(self):
        model, _, _ = make(method="min_max", weight_sharing="nested")
        assert len({level_size_bytes(model, bits) for bits in LEVELS}) == 1


class TestRefusals:
    def test_model_is_not_quantized(self, made):
        _, calibration, pixel_values = made
        with pytest.raises(ValueError, match="not quantized"):
            describe_quantization(wrap(VARIANTS["vit"].build(), levels=[8]), calibration, pixel_values)

    def test_calibration_is_of_another_model(self, made):
        model, _, pixel_values = made
        other = calibrate(wrap(VARIANTS["vit"].build()), pixel_values, method="min_max")
        with pytest.raises(ValueError, match="not the one that the model was quantized with"):
            describe_quantization(model, other, pixel_values)

    def test_there_are_no_images(self, made):
        model, calibration, pixel_values = made
        with pytest.raises(ValueError, match="no images"):
            describe_quantization(model, calibration, pixel_values[:0])


def with_accuracy(report):
    rows = [
        {**row, "accuracy": 0.9 - 0.02 * place, "accuracy_interval": [0.85 - 0.02 * place, 0.93]}
        for place, row in enumerate(report["by_level"])
    ]
    return {**report, "by_level": rows, "float_accuracy": {"accuracy": 0.91}}


class TestPicture:
    @pytest.fixture
    def drawn(self, monkeypatch):
        figures = []
        save = Figure.savefig

        def keep_and_save(figure, *args, **kwargs):
            figures.append(figure)
            save(figure, *args, **kwargs)

        monkeypatch.setattr(Figure, "savefig", keep_and_save)
        return figures

    def test_one_line_per_level_in_three_panels(self, report, tmp_path, drawn):
        plot_quantization(report, tmp_path / "a.png", "$ {")
        (figure,) = drawn
        assert len(figure.axes) == 3
        for axes in figure.axes:
            assert [line.get_label() for line in axes.get_lines()] == [f"{bits} bits" for bits in LEVELS]
            assert all(list(line.get_xdata()) == [1, 2, 3, 4] for line in axes.get_lines())
        cosines = [row["cosine"] for row in pick(report["hidden"], level=4)]
        distances = figure.axes[2].get_lines()[2].get_ydata()
        assert distances == pytest.approx([1 - cosine for cosine in cosines])
        rows = [row["sqnr_db"] for row in pick(report["rounding"], block=2, level=8, tensor="weight")]
        assert figure.axes[0].get_lines()[0].get_ydata()[1] == pytest.approx(sum(rows) / 4)

    def test_accuracy_has_a_panel_if_it_is_known(self, report, tmp_path, drawn):
        plot_quantization(with_accuracy(report), tmp_path / "a.png", "title")
        axes = drawn[0].axes[3]
        assert "91.0%" in axes.get_title()
        assert [text.get_text() for text in axes.get_xticklabels()] == ["8", "6", "4"]

    def test_nothing_overlaps(self, report, tmp_path, drawn):
        for described in (report, with_accuracy(report)):
            plot_quantization(
                described, tmp_path / "a.png", "a model with a long name, repq, accuracy on 5000 images"
            )
            figure = drawn.pop()
            boxes = [axes.get_tightbbox() for axes in figure.axes]
            boxes += [figure.legends[0].get_window_extent(), figure._suptitle.get_window_extent()]
            for place, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[place + 1 :])
                assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
                assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1

    @pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
    def test_suffix_decides_the_format(self, report, tmp_path, suffix):
        plot_quantization(report, tmp_path / f"a.{suffix}", "title")
        assert (tmp_path / f"a.{suffix}").stat().st_size > 1000

    def test_blocks_that_lose_nothing_are_left_out(self, tmp_path, drawn):
        levels = {f"{block}.{name}": "fp32" for block in (1, 2) for name in PRODUCTS}
        report = describe_quantization(*make([8], method="min_max", keep=levels))
        plot_quantization(report, tmp_path / "a.png", "title")
        assert list(drawn[0].axes[0].get_lines()[0].get_xdata()) == [3, 4]
        assert [row["cosine"] for row in report["hidden"]][:2] == [1.0, 1.0]
