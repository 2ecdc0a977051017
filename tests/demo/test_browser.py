"""The demo in a headless Chromium, as a visitor meets it; skipped where there is none (QUEE_CHROMIUM, or in PATH)."""

import pytest
from tests.demo.browser import Visitor, find_chromium, open_chromium
from tests.demo.conftest import noise
from tests.demo.server import served

from quee_hf.demo.classification import classify
from quee_hf.demo.settings import LAMBDA, PATH, Setting
from quee_hf.images import load_rgb

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium in QUEE_CHROMIUM or PATH")


@pytest.fixture(scope="module")
def url(classifier):
    with served(classifier) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser, url):
    """Return a function that opens a tab of its own."""
    contexts, visitors = [], []

    def open_tab(where: str = url) -> Visitor:
        contexts.append(browser.new_context())
        visitors.append(Visitor(contexts[-1], where))
        return visitors[-1]

    yield open_tab
    for context in contexts:
        context.close()
    assert not [error for visitor in visitors for error in visitor.errors]


def expected(classifier, file, cost_lambda):
    """Return what must be read after an image was classified."""
    answer = classify(classifier, load_rgb(file), Setting(cost_lambda=cost_lambda))
    parts = [f"{answer.spending.share:.1%} of the whole network's", f"λ = {cost_lambda:.3g}"]
    parts.append(f"predicted error {answer.error:.1%}")
    return answer, parts


def assert_shows(classifier, visitor, file, cost_lambda):
    answer, parts = expected(classifier, file, cost_lambda)
    for part in parts:
        visitor.wait_for("spent", part)
    visitor.wait_for("gates", f"{answer.exits[-1].score:.1%}")
    label, score = next(iter(answer.scores.items()))
    visitor.wait_for("scores", label)
    visitor.wait_for("scores", f"{score:.0%}")


def test_numbers_beyond_the_ends_of_the_slider_are_its_ends(classifier, visit, pictures):
    visitor = visit()
    visitor.upload(pictures[0])
    box = visitor.page.locator("#lambda input[type=number]")
    end = float(visitor.page.locator("#lambda input[type=range]").get_attribute("max"))
    for typed, used in (("99", end), ("-3", 0.0), ("0.5", 0.5), ("", 0.0)):
        box.fill(typed)
        box.press("Tab")
        assert_shows(classifier, visitor, pictures[0], used)


def test_upload_slide_and_read(classifier, visit, pictures):
    visitor = visit()
    visitor.wait_for("spent", "")
    visitor.upload(pictures[0])
    assert_shows(classifier, visitor, pictures[0], 0.1)
    for name in ("route", "curve", "preview"):
        visitor.page.locator(f"#{name} img").wait_for()
    before = visitor.page.locator("#route img").get_attribute("src")
    visitor.slide("lambda", 0.5)
    assert_shows(classifier, visitor, pictures[0], 0.5)
    assert visitor.page.locator("#route img").get_attribute("src") != before
    visitor.upload(pictures[1])
    assert_shows(classifier, visitor, pictures[1], 0.5)


def test_a_broken_file_is_said_and_the_next_one_works(classifier, visit, pictures, broken):
    visitor = visit()
    visitor.upload(pictures[0])
    assert_shows(classifier, visitor, pictures[0], 0.1)
    visitor.upload(broken)
    visitor.wait_for("message", "Cannot read image broken.jpg: it is not an image, or of an unknown format.")
    visitor.wait_for("spent", "")
    assert "Traceback" not in visitor.page.content()
    visitor.upload(pictures[1])
    assert_shows(classifier, visitor, pictures[1], 0.1)
    visitor.wait_for("message", "")


def test_budget_and_path(classifier, visit, pictures):
    visitor = visit()
    visitor.upload(pictures[0])
    visitor.route_by("budget")
    visitor.page.locator("#budget input[type=range]").wait_for()
    visitor.slide("budget", 0.55)
    assert_shows(classifier, visitor, pictures[0], 0.2)
    visitor.route_by(PATH)
    visitor.wait_for("spent", "100.0% of the whole network's")
    visitor.route_by(LAMBDA)
    assert_shows(classifier, visitor, pictures[0], 0.1)


def test_two_tabs_do_not_mix(classifier, visit, pictures):
    first, second = visit(), visit()
    for round_number in range(3):
        mine, theirs = pictures[2 * round_number], pictures[2 * round_number + 1]
        first.upload(mine)
        second.upload(theirs)
        first.slide("lambda", 0.5)
        second.slide("lambda", 0.0)
        assert_shows(classifier, first, mine, 0.5)
        assert_shows(classifier, second, theirs, 0.0)
    first.slide("lambda", 0.25)
    assert_shows(classifier, first, pictures[4], 0.25)
    assert_shows(classifier, second, pictures[5], 0.0)


def test_many_images(classifier, visit, pictures, broken):
    visitor = visit()
    visitor.open_files()
    visitor.page.locator("#run").click()
    visitor.wait_for("files-message", "Choose some images, or a folder, first.")
    visitor.page.locator("#images input[type=file]").set_input_files([*pictures, broken])
    visitor.wait_for("images", "broken")
    visitor.page.locator("#run").click()
    visitor.wait_for("summary", "6 images, mean cost")
    visitor.wait_for("files-message", "1 of 7 files could not be read. Cannot read image broken.jpg")
    for file in pictures:
        visitor.wait_for("table", file.name)
    visitor.page.locator("#shares img").wait_for()


def test_a_folder(visit, tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    for number in range(3):
        noise(number).save(folder / f"beach-{number}.png")
    visitor = visit()
    visitor.open_files()
    visitor.page.locator("#folder input[type=file]").set_input_files(folder)
    visitor.wait_for("folder", "beach-2")
    visitor.page.locator("#run").click()
    visitor.wait_for("summary", "3 images, mean cost")
    visitor.wait_for("table", "beach-2.png")


def test_a_model_without_gates_says_what_is_missing(untrained, visit, pictures):
    with served(untrained) as url:
        visitor = visit(url)
        visitor.wait_for("missing", "Its gates are not trained")
        visitor.upload(pictures[0])
        visitor.wait_for("spent", "100.0% of the whole network's")


def test_pages_ask_nobody_else(visit):
    visitor = visit()
    assert visitor.strangers == []
