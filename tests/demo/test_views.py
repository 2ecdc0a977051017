"""Tests of `quee_hf.demo.views`: what the user reads, for good files and bad."""

import io
import re

import pytest
from PIL import Image
from tests.demo.conftest import noise

from quee_hf.demo.settings import Setting
from quee_hf.demo.views import FILE_COLUMNS, preview, view_files, view_image

DEFAULT = Setting(cost_lambda=0.1)


class TestImage:
    def test_everything_is_shown(self, classifier, pictures):
        view = view_image(classifier, str(pictures[0]), DEFAULT)
        assert view.message == ""
        assert view.preview.size == (256, 256)
        assert sum(view.scores.values()) == pytest.approx(1)
        assert view.route is not None
        assert view.curve is not None
        for part in ("G BitOPs", "of the whole network's", " ms** by the model's profile", "λ = 0.1"):
            assert part in view.spent
        rows = view.gates.splitlines()[2:]
        assert rows[-1].endswith("| left |")
        assert all(row.endswith("| went on |") for row in rows[:-1])

    def test_a_path_is_shown_without_gates(self, untrained, pictures):
        view = view_image(untrained, str(pictures[0]), Setting(path=(8, 6)))
        assert view.message == ""
        assert view.curve is None
        assert "| 2 | " in view.gates
        assert "λ" not in view.spent
        assert " ms" not in view.spent

    def test_without_an_image_the_curve_waits(self, classifier):
        view = view_image(classifier, None, DEFAULT)
        assert view[:-1] == ("", None, None, "", None, "")
        assert view.curve is not None

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("broken.jpg", b"\xff\xd8 no image", "it is not an image, or of an unknown format"),
            ("notes.txt", b"hello", "it is not an image, or of an unknown format"),
            ("empty.png", b"", "it is not an image, or of an unknown format"),
            ("<script>.png", b"x", "it is not an image, or of an unknown format"),
        ],
    )
    def test_what_is_no_image_is_said_in_a_sentence(self, classifier, tmp_path, name, content, reason):
        file = tmp_path / name
        file.write_bytes(content)
        view = view_image(classifier, str(file), DEFAULT)
        assert view[1:-1] == (None, None, "", None, "")
        assert view.curve is not None  # of the setting, which is as it was
        assert 'role="alert"' in view.message
        text = re.sub("<p [^>]*>|</p>", "", view.message)
        assert text == f"Cannot read image {name}: {reason}.".replace("<", "&lt;").replace(">", "&gt;")

    def test_a_truncated_image_is_said_in_a_sentence(self, classifier, tmp_path):
        whole = io.BytesIO()
        noise(1, 200).save(whole, "PNG")
        (tmp_path / "half.png").write_bytes(whole.getvalue()[:400])
        view = view_image(classifier, str(tmp_path / "half.png"), DEFAULT)
        assert "Cannot read image half.png: " in view.message
        assert view.scores is None

    @pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "RGBA", "LA", "I;16", "F"])
    def test_any_mode_is_an_image(self, classifier, tmp_path, mode):
        file = tmp_path / "image.tif"
        grey = Image.new("I;16", (20, 20), 30000) if mode == "I;16" else noise(3).convert(mode)
        grey.save(file)
        view = view_image(classifier, str(file), DEFAULT)
        assert view.message == ""
        assert view.preview.mode == "RGB"

    def test_it_is_shown_and_classified_the_right_way_up(self, classifier, tmp_path):
        image = Image.new("RGB", (40, 20), "black")
        image.paste("white", (0, 0, 20, 20))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        image.save(tmp_path / "turned.png", exif=exif)
        view = view_image(classifier, str(tmp_path / "turned.png"), DEFAULT)
        assert view.preview.size == (128, 256)
        assert view.preview.getpixel((64, 10)) == (255, 255, 255)
        assert view.preview.getpixel((64, 240)) == (0, 0, 0)

    @pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 300), (3, 1)])
    def test_odd_sizes_are_images(self, classifier, tmp_path, size):
        Image.new("RGB", size, "red").save(tmp_path / "odd.png")
        view = view_image(classifier, str(tmp_path / "odd.png"), DEFAULT)
        assert view.message == ""

    def test_what_the_model_cannot_do_is_said_in_a_sentence(self, untrained, classifier, pictures):
        view = view_image(untrained, str(pictures[0]), DEFAULT)
        assert "gates are not trained" in view.message
        view = view_image(classifier, str(pictures[0]), Setting(target_cost=0.1))
        assert "is below the cheapest operating point" in view.message

    def test_names_of_classes_cannot_break_the_table(self, classifier, pictures, monkeypatch):
        names = dict.fromkeys(range(5), "a|b <img src=x onerror=alert(1)>")
        monkeypatch.setattr(classifier.config, "id2label", names)
        view = view_image(classifier, str(pictures[0]), DEFAULT)
        assert "<img" not in view.gates
        assert {line.count("|") for line in view.gates.splitlines()} == {7}


class TestFiles:
    def test_a_row_for_each_image(self, classifier, pictures):
        view = view_files(classifier, [str(file) for file in pictures], DEFAULT)
        assert view.message == ""
        assert view.summary.startswith("**6 images, mean cost 0.")
        assert "at λ = 0.1." in view.summary
        assert [row[0] for row in view.table] == [file.name for file in pictures]
        assert {len(row) for row in view.table} == {len(FILE_COLUMNS)}
        assert view.shares is not None

    def test_what_could_not_be_read_is_counted(self, classifier, pictures, broken):
        view = view_files(classifier, [str(pictures[0]), str(broken)], Setting(path=(8, 6)))
        assert "1 of 2 files could not be read. Cannot read image broken.jpg: " in view.message
        assert "at path 8 → 6." in view.summary
        assert len(view.table) == 1

    def test_many_complaints_are_cut(self, classifier, broken):
        view = view_files(classifier, [str(broken)] * 9, DEFAULT)
        assert view.message.count("Cannot read image") == 5
        assert "9 of 9 files" in view.message
        assert view[1:] == ("", None, [])

    def test_no_files_and_no_gates_are_said(self, classifier, untrained, pictures):
        assert "Choose some images" in view_files(classifier, [], DEFAULT).message
        assert "gates are not trained" in view_files(untrained, [str(pictures[0])], DEFAULT).message

    def test_the_default_of_the_config(self, classifier, pictures):
        assert "at the model's default." in view_files(classifier, [str(pictures[0])], Setting()).summary


@pytest.mark.parametrize(
    ("size", "shown"), [((32, 16), (256, 128)), ((1000, 500), (256, 128)), ((1, 900), (1, 256))]
)
def test_previews_are_of_one_size(size, shown):
    assert preview(Image.new("RGB", size)).size == shown


def test_few_pixels_are_enlarged_as_they_are():
    image = Image.new("RGB", (2, 1), "black")
    image.putpixel((0, 0), (255, 255, 255))
    assert len(preview(image).getcolors()) == 2
