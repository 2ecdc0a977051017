"""The demo in a headless Chromium: pictures of it, and how long a visitor waits.

Run: `python benchmarks/demo.py [MODEL]`; MODEL is a built model, `runs/dinov2-cifar10/model` if not given,
whose parts are timed first. It needs a Chromium (QUEE_CHROMIUM, or in PATH), and the test images in
QUEE_ASSETS, which are shown and used for nothing else. Writes `docs/pictures/demo-*.png`,
`benchmarks/results/demo.json`, a sentence in `docs/demo.md`.
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _results import write_section
from _timing import write_result
from assets import ASSETS
from PIL import Image
from transformers import pipeline

import quee_hf
from quee_hf.data import load_image_dataset
from quee_hf.demo.app import launch, make_app
from quee_hf.demo.classification import Classifier, classify
from quee_hf.demo.settings import Setting

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
THREADS, NUM_VISITS, NUM_IMAGES = 2, 7, 60
VIEW = {"width": 1180, "height": 900}


def write_images(folder: Path) -> list[Path]:
    """Write test images as files."""
    images = load_image_dataset(str(ASSETS / "cifar10" / "test.parquet"))
    files = []
    for number in range(NUM_IMAGES):
        files.append(folder / f"photo-{number:02}.png")
        images[number]["image"].save(files[-1])
    return files


def choose(classifier: Classifier, files: list[Path]) -> dict[str, Path]:
    """Return an image that leaves early by the model's default, and one that goes furthest."""
    setting = Setting(cost_lambda=classifier.config.cost_lambda)
    lengths = [len(classify(classifier, Image.open(file).convert("RGB"), setting).path) for file in files]
    return {"easy": files[lengths.index(min(lengths))], "hard": files[lengths.index(max(lengths))]}


def seconds(visitor: Any, act: Any, name: str, text: str) -> float:
    """Return how long it takes from what a visitor does until a part of the page says something."""
    start = time.perf_counter()
    act()
    visitor.wait_for(name, text)
    return time.perf_counter() - start


def shoot(visitor: Any, name: str, height: int | None = None) -> None:
    """Keep a picture of the whole page, or of so many pixels from its top."""
    visitor.page.mouse.move(0, 0)
    visitor.page.wait_for_timeout(700)  # for what fades in and out
    page = Image.open(io.BytesIO(visitor.page.screenshot(full_page=True))).convert("RGB")
    part = page.crop((0, 0, page.width, height or page.height))
    # A palette, and of those ways to choose one that which no eye can tell from the original.
    palette = part.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(PICTURES / f"demo-{name}.png", optimize=True)


def show_image(visitor: Any, classifier: Classifier, chosen: dict[str, Path], broken: Path) -> None:
    """Do what a visitor does in the first tab, and keep pictures of it."""
    visitor.upload(chosen["easy"])
    visitor.wait_for("spent", "G BitOPs")
    shoot(visitor, "easy")
    visitor.upload(chosen["hard"])
    visitor.wait_for("gates", "went on")
    shoot(visitor, "hard")
    visitor.slide("lambda", 0.5)
    visitor.wait_for("spent", "λ = 0.5")
    shoot(visitor, "cheaper")
    visitor.upload(broken)
    visitor.wait_for("message", "Cannot read image")
    shoot(visitor, "broken", height=560)


def show_files(visitor: Any, folder: Path) -> None:
    """Do what a visitor does in the second tab."""
    visitor.open_files()
    visitor.page.locator("#folder input[type=file]").set_input_files(folder)
    visitor.wait_for("folder", "photo-01")
    visitor.page.locator("#run").click()
    visitor.wait_for("summary", "images, mean cost")
    shoot(visitor, "files")


def measure(browser: Any, url: str, visitor_type: Any, files: list[Path]) -> dict[str, list[float]]:
    """Return seconds from upload, and from moving the slider, to the answer; a new tab each time."""
    times: dict[str, list[float]] = {"upload": [], "slide": []}
    for number, file in enumerate(files[:NUM_VISITS]):
        context = browser.new_context()
        visitor = visitor_type(context, url)
        times["upload"].append(seconds(visitor, lambda v=visitor, f=file: v.upload(f), "spent", "G BitOPs"))
        value = 0.2 + 0.05 * number
        times["slide"].append(
            seconds(visitor, lambda v=visitor, x=value: v.slide("lambda", x), "spent", f"λ = {value:.3g}")
        )
        context.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT / "runs" / "dinov2-cifar10" / "model"
    parser.add_argument("model", nargs="?", type=Path, default=default)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.demo.browser import Visitor, open_chromium

    torch.set_num_threads(THREADS)
    found = pipeline("image-classification", model=str(arguments.model))
    quee_hf.profile(found.model, threads=THREADS)  # so that the demo has milliseconds to show
    classifier = Classifier(found.model, found.image_processor)
    app = make_app(found.model, found.image_processor, title="quee-dinov2-cifar10")
    url = launch(app)
    try:
        with tempfile.TemporaryDirectory() as home, open_chromium() as browser:
            folder = Path(home) / "photos"
            folder.mkdir()
            files = write_images(folder)
            # The first visitor meets a model that has classified nothing yet.
            times = measure(browser, url, Visitor, files)
            broken = Path(home) / "broken.jpg"
            broken.write_bytes(b"\xff\xd8 no image")
            context = browser.new_context(viewport=VIEW)
            show_image(Visitor(context, url), classifier, choose(classifier, files), broken)
            show_files(Visitor(context, url), folder)
    finally:
        app.close(verbose=False)
    write_result("demo", {"seconds": times, "num_visits": NUM_VISITS})
    write_section(
        ROOT / "docs" / "demo.md", describe(times), command="python benchmarks/demo.py", name="times"
    )


def describe(times: dict[str, list[float]]) -> str:
    """Return the result in words."""
    upload, slide = times["upload"], times["slide"]
    return (
        f"DINOv2-S (70 px) on {THREADS} threads, engine `torch`, {NUM_VISITS} visitors in turn, each in a"
        " new tab of a headless Chromium on the same machine: from the upload of an image to its answer"
        f" {upload[0]:.1f} s for the first visitor after the start, then {median(upload[1:]):.1f} s (at most"
        f" {max(upload[1:]):.1f} s); from moving the slider to the new answer {median(slide):.1f} s (at most"
        f" {max(slide):.1f} s)."
    )


if __name__ == "__main__":
    main()
