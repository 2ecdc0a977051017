"""Write what `deployment.py` measured as a page."""

from pathlib import Path
from typing import Any

from quee_hf.tables import markdown_table


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the numbers as a page."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    levels = ", ".join(map(str, result["levels"]))
    text = [
        "# Deployment without PyTorch",
        f"Written by `python benchmarks/deployment.py` on {result['date']}, with {versions};"
        f" {result['threads']} threads; {result['num_images']} test images of CIFAR-10, DINOv2-S at 70 px.",
        "## The environment",
        "Exported models ran in an environment that holds what their `requirements.txt` asks for, and nothing"
        f" else: {', '.join(f'`{package}`' for package in result['packages'])}. Pixel values made there"
        f" differ from the image processor's by at most {result['largest_pixel_difference']:g}.",
        "## Decisions and logits",
        "A *decision* is one gate's for one image that stands where it does in the reference: to leave, or to"
        " go on at some level. Logits are compared where the whole path is the same: the share of images of"
        " which no logit differs by more than 0.001, the median over images of the largest difference, and"
        " the largest of all.",
        "*Beside `onnxruntime`* is the same integer arithmetic: PyTorch's program, with the engine that runs"
        " the same kernels. `torch` simulates integer levels; where a number lies near the middle between two"
        " codes, rounding before it decides which it gets, and everything after follows. How far that goes is"
        " the row of `torch` beside itself on images that are changed by a random 1e-06.",
    ]
    titles = {"integer": f"Levels {levels}", "float": 'The same heads and gates at level "fp32"'}
    for kind, title in titles.items():
        text.append(f"### {title}")
        for value in next(iter(result["agreement"][kind].values())):
            rows = [[name, *_cells(rows[value])] for name, rows in result["agreement"][kind].items()]
            columns = ["", "same decision, %", "same path, %", "same class, %"]
            columns += ["logits within 0.001, %", "median difference", "largest"]
            count = max(rows[value]["num_decisions"] for rows in result["agreement"][kind].values())
            text += [f"λ = {value}, {count} decisions:", markdown_table(columns, rows)]
    text += ["## Images per second", *_speed(result), "## Handlers", *_handlers(result)]
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _cells(entry: dict[str, float]) -> list[str]:
    names = ("same_decision", "same_path", "same_class", "logits_within")
    shares = [f"{100 * entry[name]:.2f}" for name in names]
    return [*shares, *(f"{entry[name]:.2g}" for name in ("median_difference", "largest_difference"))]


def _speed(result: dict[str, Any]) -> list[str]:
    rows = []
    for size, row in result["speed"].items():
        cells = [_spread(each, ".0f") for each in row["images_per_second"].values()]
        rows.append([size, *cells, *(_spread(each, ".2f") for each in row["exported_over"].values())])
    first = next(iter(result["speed"].values()))
    columns = [
        "batch",
        *first["images_per_second"],
        *(f"exported / {name}" for name in first["exported_over"]),
    ]
    return [
        f"Routed at λ = {result['cost_lambda']}, {result['num_timed']} images, {result['rounds']} rounds, in"
        " each of which all run the same batches in turn; medians and quartiles, ratios round by round."
        " *Exported* calls a segment, a head and a gate one after the other, where the engine `onnxruntime`"
        " has one graph for the three.",
        markdown_table(columns, rows),
    ]


def _handlers(result: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in result["handlers"].items():
        numbers = [row[key] for key in ("clients", "requests", "answered", "equal", "different_answers")]
        rows.append([name, *map(str, numbers), f"{row['requests_per_second']:.0f}"])
    columns = ["handler", "clients at once", "requests", "answered", "equal to a request alone"]
    columns += ["different answers among them", "requests per second"]
    return [
        "Through HTTP on this machine's loopback, each client sending its next request when it has an answer;"
        " images and λ differ from request to request.",
        markdown_table(columns, rows),
    ]


def _spread(values: dict[str, float], form: str) -> str:
    return f"{values['median']:{form}} ({values['low']:{form}} to {values['high']:{form}})"
