"""Tests of `quee_hf.diagnostics.noise_report`."""

import pytest
from matplotlib.figure import Figure

from quee_hf.diagnostics.noise_report import noise_table, plot_noise


def row(block, **changes):
    fields = {
        "noise_ratio": 0.01 * block,
        "noise_jump": 1.25,
        "noise": 0.2 * block,
        "evolution": 20.0,
        "inr": 9.5,
    }
    fields |= {"token_cosine": 0.99, "class_cosine": 0.98, "mean_patch_cosine": 1.0}
    return {"block": block, **fields, "largest": 3.0, "largest_ratio": 1.0, "kurtosis": 12.345, **changes}


ROWS = [row(1), row(2, inr=None, noise_ratio=0.0, noise=0.0), row(3)]


def test_table_has_a_row_for_each_block():
    lines = noise_table({"blocks": ROWS}, {1: [], 2: [], 3: ["noise", "inr"]}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 1 | 0.01 | 1.25 | 9.5 |  | 0.9900 | 0.9800 | 1.0000 | 3 | 1 | 12.3 |")
    assert "| 2 | 0 | 1.25 | - |" in lines[3]
    assert "| noise, inr |" in lines[4]


class TestPicture:
    @pytest.fixture
    def figures(self, monkeypatch):
        drawn = []
        save = Figure.savefig
        monkeypatch.setattr(
            Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1]
        )
        return drawn

    def test_shows_every_number_there_is(self, tmp_path, figures):
        plot_noise({"blocks": ROWS}, {1: [], 2: [], 3: ["inr"]}, tmp_path / "noise.png", "A $title")
        assert (tmp_path / "noise.png").stat().st_size > 20_000
        (figure,) = figures
        lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
        assert list(lines["INR"].get_xdata()) == [1, 3]  # an infinite one cannot be drawn
        assert list(lines["noise"].get_ydata()) == [0.01, 0.03]
        assert list(lines["mean patch"].get_ydata()) == [1e-6] * 3
        bands = [patch for axes in figure.axes for patch in axes.patches]
        assert [patch.get_x() for patch in bands] == [2.5] * 6
        for axes in figure.axes:
            assert axes.get_xlabel() == "block"
            assert axes.get_ylabel()
            low, high = sorted(axes.get_ylim())
            assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2

    def test_can_be_drawn_without_noise(self, tmp_path):
        quiet = [row(block, inr=None, noise=0.0, noise_ratio=0.0, kurtosis=None) for block in (1, 2)]
        plot_noise({"blocks": quiet}, {1: [], 2: []}, tmp_path / "noise.svg", "quiet")
        assert "<svg" in (tmp_path / "noise.svg").read_text()

    def test_can_be_drawn_of_one_block(self, tmp_path):
        plot_noise({"blocks": [row(1)]}, {1: ["noise"]}, tmp_path / "noise.png", "one")
