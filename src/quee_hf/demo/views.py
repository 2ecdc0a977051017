"""What the demo shows for a request, whatever shows it: text, tables and pictures."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from quee_hf.demo.batches import BatchAnswer, classify_files
from quee_hf.demo.classification import Answer, Classifier, classify
from quee_hf.demo.pictures import curve_figure, route_figure, shares_figure
from quee_hf.demo.settings import Setting, path_name
from quee_hf.errors import QuEEError
from quee_hf.images import load_rgb
from quee_hf.tables import markdown_table

FILE_COLUMNS = ("file", "label", "score", "left after block", "path", "cost", "predicted error")
_PREVIEW = 256  # pixels of the longer side
_FEW_PIXELS = 128  # images smaller than this are enlarged without smoothing
_MOST_COMPLAINTS = 5


class ImageView(NamedTuple):
    """What is shown of one image; what there is nothing to show in is empty."""

    message: str  # HTML: what went wrong
    preview: Image.Image | None
    scores: dict[str, float] | None
    spent: str  # Markdown: what it took
    route: Figure | None
    gates: str  # Markdown: a table
    curve: Figure | None


class FilesView(NamedTuple):
    """What is shown of several files."""

    message: str  # HTML: what went wrong
    summary: str  # Markdown
    shares: Figure | None
    table: list[list[str]]  # of `FILE_COLUMNS`


def view_image(classifier: Classifier, file: str | None, setting: Setting) -> ImageView:
    """Classify the image in a file, and show what became of it; without a file, the present setting."""
    curve = None
    try:
        arguments = setting.arguments(classifier.model)
        curve = curve_figure(classifier.config, arguments["cost_lambda"], None)
        if file is None:
            return ImageView("", None, None, "", None, "", curve)
        image = load_rgb(file, name=Path(file).name)
        answer = classify(classifier, image, setting)
    except (QuEEError, ValueError) as error:
        return ImageView(alert(str(error)), None, None, "", None, "", curve)
    return ImageView(
        message="",
        preview=preview(image),
        scores=answer.scores,
        spent=_spent(classifier, answer),
        route=route_figure(classifier.config, answer),
        gates=_gates(answer),
        curve=curve_figure(classifier.config, answer.cost_lambda, answer.spending.cost),
    )


def view_files(classifier: Classifier, files: Sequence[str], setting: Setting) -> FilesView:
    """Classify the images in files, in the order of their names, and show where they left."""
    if not files:
        return FilesView(alert("Choose some images, or a folder, first."), "", None, [])
    try:
        by_name = sorted(map(Path, files), key=lambda file: file.name)
        answer = classify_files(classifier, by_name, setting)
        arguments = setting.arguments(classifier.model)
    except (QuEEError, ValueError) as error:
        return FilesView(alert(str(error)), "", None, [])
    message = _complaints(answer.unreadable, len(files))
    if not answer.files:
        return FilesView(message, "", None, [])
    shares = answer.exit_shares(classifier.config.num_exits)
    path, cost_lambda = arguments["path"], arguments["cost_lambda"]
    how = "the model's default" if cost_lambda is None else f"λ = {cost_lambda:.3g}"
    how = f"path {path_name(path)}" if path else how
    return FilesView(
        message,
        f"**{len(answer.files)} images, mean cost {answer.mean_cost:.3f}** of the whole network's, at {how}.",
        shares_figure(classifier.config.exit_blocks, shares),
        _rows(classifier, answer),
    )


def alert(text: str) -> str:
    """Return a message as HTML."""
    return f'<p role="alert" class="alert">{html.escape(text)}</p>'


def preview(image: Image.Image) -> Image.Image:
    """Return an image of a size to look at, few pixels enlarged as they are."""
    scale = _PREVIEW / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    is_small = max(image.size) < _FEW_PIXELS
    return image.resize(size, Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS)


def _spent(classifier: Classifier, answer: Answer) -> str:
    spent, config = answer.spending, classifier.config
    parts = [f"**{spent.bitops / 1e9:.3g} G BitOPs**, {spent.share:.1%} of the whole network's"]
    if config.cost_model != "bitops":
        parts.append(f"cost by {config.cost_model} {spent.cost:.3f}")
    if spent.latency_ms is not None and config.profile is not None:
        size = min(config.profile["batch_sizes"])
        where = f"{config.profile['engine']} on {config.profile['machine']['processor']}, batch {size}"
        parts.append(f"**{spent.latency_ms:.2f} ms** by the model's profile ({where})")
    else:
        parts.append("no milliseconds: `quee profile` measures them")
    if answer.error is not None:
        parts.append(f"predicted error **{answer.error:.1%}**")
    if answer.cost_lambda is not None:
        parts.append(f"λ = {answer.cost_lambda:.3g}")
    return " · ".join(parts)


def _gates(answer: Answer) -> str:
    """Return a table of the exits reached, and what the gates there predicted."""
    rows = [
        [
            str(report.block),
            _cell(report.label),
            f"{report.score:.1%}",
            *("–" if error is None else f"{error:.1%}" for error in (report.leave_error, report.aim_error)),
            "left" if number == len(answer.exits) else "went on",
        ]
        for number, report in enumerate(answer.exits, start=1)
    ]
    titles = (
        "exit after block",
        "class",
        "score",
        "predicted error of leaving",
        "of the way chosen",
        "the image",
    )
    return markdown_table(titles, rows)


def _cell(text: str) -> str:
    """Return text as it is, in a table of Markdown."""
    return html.escape(text).replace("|", "&#124;").replace("\n", " ")


def _rows(classifier: Classifier, answer: BatchAnswer) -> list[list[str]]:
    config = classifier.config
    return [
        [
            file.name,
            file.label,
            f"{file.score:.1%}",
            str(config.exit_blocks[len(file.path) - 1]),
            path_name([config.level_list[level] for level in file.path]),
            f"{file.cost:.3f}",
            "–" if file.error is None else f"{file.error:.1%}",
        ]
        for file in answer.files
    ]


def _complaints(unreadable: Sequence[str], num_files: int) -> str:
    if not unreadable:
        return ""
    more = " …" if len(unreadable) > _MOST_COMPLAINTS else ""
    first = " ".join(unreadable[:_MOST_COMPLAINTS])
    return alert(f"{len(unreadable)} of {num_files} files could not be read. {first}{more}")
