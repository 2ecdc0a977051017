"""Tests of `quee_hf.plots`: what is in a picture, not how it looks to the pixel."""

import itertools

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from quee_hf.plots import plot_accuracy_cost, plot_image_sheet, plot_numbers, plot_shares


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were saved."""
    figures = []
    save = Figure.savefig

    def keep_and_save(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)
        figure.canvas.draw()  # settles positions and tick labels for looking at them

    monkeypatch.setattr(Figure, "savefig", keep_and_save)
    return figures


def legend_texts(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def tick_texts(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def assert_nothing_overlaps(figure):
    """The legend is beside the axes, and all of both is on the page."""
    page = figure.bbox
    axes, legend = figure.axes[0].get_tightbbox(), figure.legends[0].get_window_extent()
    assert not axes.overlaps(legend)
    for box in (axes, legend):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1


@pytest.fixture
def curve():
    costs = np.linspace(0.2, 1.0, 9)
    accuracies = 0.6 + 0.35 * costs
    return costs, accuracies, (accuracies - 0.01, accuracies + 0.01)


class TestAccuracyCost:
    def test_curves_and_points_are_all_there(self, tmp_path, drawn, curve):
        curves = {"ours": curve, "theirs": (curve[0][::-1], curve[1][::-1] - 0.1, None)}
        plot_accuracy_cost(curves, {"float32": (1.0, 0.97)}, tmp_path / "a.png", "Accuracy on the test set")
        axes = drawn[0].axes[0]
        assert axes.get_title() == "Accuracy on the test set"
        assert legend_texts(drawn[0]) == ["ours", "theirs", "float32"]
        for line, accuracies in zip(axes.get_lines(), (curve[1], curve[1] - 0.1, [0.97]), strict=True):
            np.testing.assert_allclose(line.get_ydata(), accuracies, rtol=1e-12)
        assert len(axes.collections) == 1  # one interval

    def test_axes_are_percentages(self, tmp_path, drawn, curve):
        plot_accuracy_cost({"ours": curve}, {}, tmp_path / "a.png", "")
        axes = drawn[0].axes[0]
        assert "100%" in tick_texts(axes.xaxis)
        assert "90%" in tick_texts(axes.yaxis)

    def test_legend_is_not_over_data(self, tmp_path, drawn, curve):
        curves = {f"a method with a rather long name, number {number}": curve for number in range(6)}
        plot_accuracy_cost(curves, {"peer": (0.5, 0.9)}, tmp_path / "a.png", "")
        assert_nothing_overlaps(drawn[0])

    def test_names_may_hold_dollar_signs(self, tmp_path, drawn, curve):
        plot_accuracy_cost({"$x_{": curve}, {"a$b$": (1.0, 0.9)}, tmp_path / "a.png", "$ {")
        assert legend_texts(drawn[0]) == ["$x_{", "a$b$"]

    @pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
    def test_suffix_decides_the_format(self, tmp_path, curve, suffix):
        path = tmp_path / f"a.{suffix}"
        plot_accuracy_cost({"ours": curve}, {}, path, "")
        assert path.read_bytes()[:5] == {"png": b"\x89PNG\r", "svg": b"<?xml", "pdf": b"%PDF-"}[suffix]

    def test_points_alone_and_nothing_at_all(self, tmp_path, drawn):
        plot_accuracy_cost({}, {"float32": (1.0, 0.97)}, str(tmp_path / "a.png"), "")
        plot_accuracy_cost({}, {}, tmp_path / "b.png", "")
        assert legend_texts(drawn[0]) == ["float32"]


class TestImageSheet:
    @pytest.fixture
    def entries(self):
        return [(Image.new("L", (32, 24), 40 * number), [f"class {number}", "exit 4"]) for number in range(5)]

    def test_images_and_captions_are_all_there(self, tmp_path, drawn, entries):
        plot_image_sheet(entries, entries[:2], tmp_path / "a.png")
        texts = [text.get_text() for text in drawn[0].texts]
        assert [text for text in texts if text.endswith("images")] == ["Easy images", "Hard images"]
        assert texts.count("exit 4") == 7
        assert len(drawn[0].axes) == 7
        assert drawn[0].axes[3].images[0].get_array().shape == (24, 32, 3)

    def test_everything_is_on_the_page_and_apart(self, tmp_path, drawn, entries):
        longest = [(entries[0][0], ["W" * 99, "a caption of many characters, " * 9, *"123456"])]
        plot_image_sheet(entries + longest, longest * 2, tmp_path / "a.png")
        boxes = [text.get_window_extent() for text in drawn[0].texts]
        boxes += [axes.get_window_extent() for axes in drawn[0].axes]
        page = drawn[0].bbox
        for box in boxes:
            assert page.x0 <= box.x0 < box.x1 <= page.x1
            assert page.y0 <= box.y0 < box.y1 <= page.y1
        overlapping = [(a, b) for a in range(len(boxes)) for b in range(a) if boxes[a].overlaps(boxes[b])]
        assert overlapping == []

    def test_empty_row_is_left_out(self, tmp_path, drawn, entries):
        plot_image_sheet([], entries, tmp_path / "a.png")
        assert next(text.get_text() for text in drawn[0].texts) == "Hard images"

    def test_nothing_to_draw_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="no images to draw"):
            plot_image_sheet([], [], tmp_path / "a.png")


class TestShares:
    def test_bars_stack_to_the_whole(self, tmp_path, drawn):
        shares = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
        plot_shares(["cat", "dog"], shares, ["8", "8-6", "8-8"], tmp_path / "a.png", "Paths")
        containers = drawn[0].axes[0].containers
        heights = np.array([[bar.get_height() for bar in bars] for bars in containers])
        np.testing.assert_allclose(heights.T, shares)
        tops = [bar.get_y() + bar.get_height() for bar in containers[-1]]
        assert tops == pytest.approx([1.0, 1.0])
        assert legend_texts(drawn[0]) == ["8-8", "8-6", "8"]

    def test_axis_is_in_percent_and_many_names_stay_readable(self, tmp_path, drawn):
        names = [f"a class with a long name {number}" for number in range(24)]
        plot_shares(names, np.tile([0.5, 0.5], (24, 1)), ["6", "12"], tmp_path / "a.png", "Paths")
        axes = drawn[0].axes[0]
        assert tick_texts(axes.yaxis)[-1] == "100%"
        assert tick_texts(axes.xaxis) == names
        labels = [label.get_window_extent() for label in axes.xaxis.get_ticklabels()]
        assert not any(first.overlaps(second) for first, second in itertools.pairwise(labels))

    def test_shape_is_checked(self, tmp_path):
        with pytest.raises(ValueError, match=r"2 names x 3 parts, got \(3, 2\)"):
            plot_shares(["a", "b"], np.ones((3, 2)) / 2, ["1", "2", "3"], tmp_path / "a.png", "")


def test_numbers_are_drawn_where_they_are(tmp_path, drawn):
    interval = [0.4, 0.5], [0.6, 0.7]
    plot_numbers([2, 20], [0.5, 0.6], interval, {"none": 0.55}, tmp_path / "a.png", labels=("K", "area"))
    line, other = drawn[0].axes[0].get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[2, 0.5], [20, 0.6]])
    assert other.get_ydata()[0] == 0.55
    assert tick_texts(drawn[0].axes[0].xaxis) == ["2", "20"]
    assert legend_texts(drawn[0]) == ["none"]


def test_global_figures_are_left_alone(tmp_path, curve):
    plot_accuracy_cost({"ours": curve}, {}, tmp_path / "a.png", "")
    plot_shares(["a"], [[1.0]], ["12"], tmp_path / "b.png", "")
    assert pyplot.get_fignums() == []
