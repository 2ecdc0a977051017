"""Tests of `quee_hf.demo.pictures`: what is in a picture, not how it looks to the pixel."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch
from tests.demo.conftest import noise, operating_points
from tests.tiny import routable

from quee_hf.demo.classification import classify
from quee_hf.demo.pictures import curve_figure, route_figure, shares_figure
from quee_hf.demo.settings import Setting


def boxes(figure):
    """Return the colours of the boxes, in the order of levels and blocks."""
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    return [to_hex(patch.get_facecolor()) for patch in patches]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def assert_all_is_on_the_page(figure):
    figure.canvas.draw()
    page = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0 < box.x1 <= page.x1 + 1, text
        assert page.y0 <= box.y0 < box.y1 <= page.y1 + 1, text


class TestRoute:
    @pytest.mark.parametrize("path", [(8,), (8, 6), (8, 8, 8), (8, 6, 4), (4, 4, 4)])
    def test_boxes_that_were_run_have_the_colour_of_their_level(self, classifier, path):
        answer = classify(classifier, noise(1), Setting(path=path))
        figure = route_figure(classifier.config, answer)
        found = np.array(boxes(figure)).reshape(3, 4)  # levels, blocks
        pale = found[2 if 4 not in path else 0, 3] if len(path) < 3 else None
        stops = dict(zip((1, 2, 4), path, strict=False))
        run = {}
        start = 0
        for stop, level in stops.items():
            for block in range(start, stop):
                run[classifier.config.level_list.index(level), block] = level
            start = stop
        colors = {}
        for place, color in np.ndenumerate(found):
            if place in run:
                assert colors.setdefault(run[place], color) == color
                assert color != pale
        others = {color for place, color in np.ndenumerate(found) if place not in run}
        assert len(others) == 1  # all equally pale
        assert not others & set(colors.values())
        assert len(set(colors.values())) == len(colors)
        assert_all_is_on_the_page(figure)

    def test_exits_that_it_passed_say_what_they_said(self, classifier):
        answer = classify(classifier, noise(1), Setting(cost_lambda=0.0))
        shown = texts(route_figure(classifier.config, answer))
        assert len(answer.exits) > 1
        for report in answer.exits:
            assert report.label in shown
            if report.leave_error is not None:
                assert f"{report.leave_error:.1%}" in shown

    def test_title_says_where_it_left(self, classifier):
        early, whole = (
            texts(route_figure(classifier.config, classify(classifier, noise(1), Setting(path=path))))[0]
            for path in ((8, 6), (8, 6, 4))
        )
        assert early.startswith("Left after block 2: levels 8 → 6, ")
        assert whole.startswith("Whole network: levels 8 → 6 → 4, ")

    def test_without_an_image_all_is_pale(self, classifier):
        figure = route_figure(classifier.config, None)
        assert len(set(boxes(figure))) == 1
        assert "No image yet" in texts(figure)

    def test_one_level_and_one_exit(self):
        model = routable(exit_blocks=[4], levels=[8])
        figure = route_figure(model.config, None)
        assert len(boxes(figure)) == 4
        assert_all_is_on_the_page(figure)

    def test_long_and_strange_names_are_drawn_as_they_are(self, classifier, monkeypatch):
        names = dict(enumerate(["$x_{", "a name that goes on and on", "c", "d", "e"]))
        monkeypatch.setattr(classifier.config, "id2label", names)
        for seed in range(6):
            figure = route_figure(
                classifier.config, classify(classifier, noise(seed), Setting(cost_lambda=0.0))
            )
            assert_all_is_on_the_page(figure)
            assert "a name that goes on and on" not in texts(figure)

    def test_can_be_written(self, classifier):
        file = io.BytesIO()
        route_figure(classifier.config, None).savefig(file, format="png")
        assert file.getvalue().startswith(b"\x89PNG")


class TestCurve:
    def lines(self, figure) -> dict:
        return {str(line.get_label()): line for line in figure.axes[0].get_lines()}

    def test_the_current_point_is_on_the_curve(self, classifier):
        lines = self.lines(curve_figure(classifier.config, 0.1, None))
        np.testing.assert_allclose(lines["λ = 0.1, now"].get_xydata(), [[0.6, 0.85]])

    def test_between_points_it_is_between_them(self, classifier):
        lines = self.lines(curve_figure(classifier.config, 0.15, None))
        np.testing.assert_allclose(lines["λ = 0.15, now"].get_xydata(), [[0.55, 0.825]])

    def test_beyond_the_last_it_stays_there(self, classifier):
        lines = self.lines(curve_figure(classifier.config, 9.0, None))
        np.testing.assert_allclose(lines["λ = 9, now"].get_xydata(), [[0.25, 0.6]])

    def test_the_cost_of_the_image_is_a_line(self, classifier):
        lines = curve_figure(classifier.config, None, 0.4).axes[0].get_lines()
        assert [0.4, 0.4] in [list(line.get_xdata()) for line in lines]
        assert not any("now" in str(line.get_label()) for line in lines)

    def test_all_points_are_there(self, classifier):
        (line,) = [line for name, line in self.lines(curve_figure(classifier.config, None, None)).items()]
        expected = {(point["cost"], point["accuracy"]) for point in operating_points()}
        assert {tuple(row) for row in line.get_xydata().tolist()} == expected

    def test_without_points_there_is_none(self, untrained):
        assert curve_figure(untrained.config, None, None) is None


def test_shares_are_bars_with_their_number():
    figure = shares_figure([1, 2, 4], [0.25, 0.0, 0.75])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.25, 0.0, 0.75]
    assert texts(figure) == ["25%", "0%", "75%"]
