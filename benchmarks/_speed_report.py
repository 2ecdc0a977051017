"""Results of `speed.py` as numbers, as a page and as a picture."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _speed_plan import ACCURACY_BATCH_SIZE, BASE, NNCF
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from quee_hf.tables import markdown_table

_OURS, _THEIRS, _NNCF = "#D55E00", "#56B4E9", "#0072B2"  # Okabe and Ito
COMMAND = "python benchmarks/speed.py --peers-python PEERS/bin/python"
_PEERS = (
    "Peers run at their best as far as we found it. ONNX Runtime and OpenVINO compile for each batch "
    "size. ONNX Runtime INT8 has weights in int8 by channel and activations in uint8, for Conv, Gemm "
    "and MatMul, with the ranges of 300 images. NNCF quantizes with its settings for transformers and "
    "300 images; what is not integer runs in float32 or bfloat16, and the faster of the two at a batch "
    "size is called NNCF here. torchao compiles for each batch size, with `max-autotune` and frozen "
    "weights. OpenVINO's hint is LATENCY."
)
Spread = dict[str, float]


def quartiles(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    if len(values) < 2:
        return dict.fromkeys(("median", "low", "high"), values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def ratios(times: Sequence[float], others: Sequence[float]) -> Spread:
    """Speed relative to another's, round by round, from the times of both."""
    return quartiles([other / time for time, other in zip(times, others, strict=True)])


def summarize(parts: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Reduce the visits of all batch sizes to medians and quartiles."""
    accuracy: dict[str, Any] = {}
    for part in parts.values():
        accuracy |= part["accuracy"]
    labels = {name: label for part in parts.values() for name, label in part["labels"].items()}
    batches = {str(size): _summarize_batch(size, part) for size, part in parts.items()}
    return {"labels": labels, "batches": batches, "accuracy": accuracy}


def _summarize_batch(batch_size: int, part: dict[str, Any]) -> dict[str, Any]:
    times = {name: [visit["mean_ms"] for visit in visits] for name, visits in part["visits"].items()}
    settings = [name for name in NNCF if name in times]
    nncf = min(settings, key=lambda name: statistics.median(times[name])) if settings else None
    rows: dict[str, Any] = {}
    for name, values in times.items():
        rows[name] = {
            "images_per_second": quartiles([1e3 * batch_size / value for value in values]),
            "latency_ms": quartiles([visit["median_ms"] for visit in part["visits"][name]]),
            "batches_per_visit": statistics.median(visit["num_batches"] for visit in part["visits"][name]),
        }
        for key, other in (("over_float32", BASE), ("over_nncf", nncf)):
            if other in times:
                rows[name][key] = ratios(values, times[other])
    return {"rows": rows, "not_run": part["failures"], "nncf": nncf, "waiting": part["waiting"]}


def write_page(result: dict[str, Any], folder: Path) -> None:
    """Write `speed.md` and `speed.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(result, folder / "speed.png")
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    processor = result["processor"]
    flags = ", ".join(processor["flags"]) or "none of those for small numbers"
    text = [
        "# Speed beside other runtimes",
        f"Written by `{COMMAND}` on {result['date']}, with {versions}.",
        f"{processor['model']}, {processor['cores']} cores ({flags}); {result['threads']} threads."
        f" Each contender is a process. In each of {result['rounds']} rounds all are asked in turn, in an"
        f" order drawn anew, to run real images for about {result['seconds_per_visit']} s, others each time."
        " Loading, compiling and preprocessing are not timed. Numbers are medians over rounds, with quartiles"
        " in parentheses; ratios are taken within a round. Images per second count all images of a visit:"
        " easy ones take a routed model less time than hard ones. A stream, `model.classify_stream`, is"
        " run on all timed images at once; its milliseconds are per batch of them."
        f" OMP_WAIT_POLICY: {result['omp_wait_policy']}.",
        _PEERS,
        "![Images per second relative to Hugging Face float32](speed.png)",
    ]
    for size in result["sizes"].values():
        text += _section(size, result["cost_lambda"])
    (folder / "speed.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _section(size: dict[str, Any], cost_lambda: float | None) -> list[str]:
    batches = size["batches"]
    titles = [f"batch {batch}" for batch in batches]
    ours = [name for name in size["labels"] if name.startswith("quee-")]
    is_routed = any(name.endswith("routed") for name in ours)
    text = [f"## {size['title']}"]
    if is_routed:
        text.append(f"The routed model runs at λ = {cost_lambda}.")
    quality = "accuracy, % (95 %)" if is_routed else "logits differ by"
    rows = [
        [size["labels"][name], *_cells(batches, name, "over_float32"), _quality(size, name, is_routed)]
        for name in size["labels"]
    ]
    speeds = [
        [
            size["labels"][name],
            *_cells(batches, name, "images_per_second"),
            *_cells(batches, name, "latency_ms"),
        ]
        for name in size["labels"]
    ]
    return [
        *text,
        "Images per second relative to Hugging Face float32:",
        markdown_table(["", *titles, quality], rows),
        _about_quality(size, is_routed),
        _about_nncf(size, ours),
        markdown_table(
            ["", *titles], [[size["labels"][name], *_cells(batches, name, "over_nncf")] for name in ours]
        ),
        "Images per second, and milliseconds of a batch (median of a visit):",
        markdown_table(["", *titles, *(f"{title}, ms" for title in titles)], speeds),
        _waiting(batches),
    ]


def _cells(batches: Mapping[str, Any], name: str, field: str) -> list[str]:
    """One cell for each batch size; what did not run says why."""
    cells = []
    for batch in batches.values():
        if name in batch["not_run"]:
            reason = batch["not_run"][name].replace("|", "/")
            cells.append(f"not run: {reason}")
        else:
            cells.append(_spread(batch["rows"].get(name, {}).get(field)))
    return cells


def _spread(values: Spread | None) -> str:
    if values is None:
        return "–"
    median, low, high = (_number(values[name]) for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _quality(size: dict[str, Any], name: str, has_labels: bool) -> str:
    if name not in size["accuracy"]:
        return "–"
    entry = size["accuracy"][name]
    if not has_labels:
        return f"{entry['logit_error']:.2%}"
    low, high = entry["accuracy_interval"]
    return f"{100 * entry['accuracy']:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _about_quality(size: dict[str, Any], has_labels: bool) -> str:
    count = next((entry["num_images"] for entry in size["accuracy"].values()), 0)
    if has_labels:
        return f"Accuracy on {count} test images, at batch {ACCURACY_BATCH_SIZE}."
    return (
        f"Weights are random, so there is no accuracy: by this share of their norm logits of {count} images"
        " differ from those of Hugging Face float32."
    )


def _about_nncf(size: dict[str, Any], ours: Sequence[str]) -> str:
    """Say which NNCF is meant, and how long one image takes."""
    settings = [
        "it did not run" if batch["nncf"] is None else size["labels"][batch["nncf"]].rpartition(", ")[2]
        for batch in size["batches"].values()
    ]
    chosen = ", ".join(
        f"batch {batch}: {text}" for batch, text in zip(size["batches"], settings, strict=True)
    )
    text = f"Relative to NNCF INT8 ({chosen})"
    one = size["batches"].get("1")
    if one is not None and one["nncf"] is not None:
        names = [name for name in ours if name.endswith("full") and name in one["rows"]]
        times = [
            f"{one['rows'][name]['latency_ms']['median']:.1f} ms {words}"
            for name, words in (
                (one["nncf"], "with NNCF"),
                *((name, f"with {size['labels'][name]}") for name in names),
            )
        ]
        text += f"; one image takes {', '.join(times)} (median)"
    return f"{text}:"


def _waiting(batches: Mapping[str, Any]) -> str:
    shares = ", ".join(
        f"{batch['waiting']['cores_used']:.3f} (batch {size})" for size, batch in batches.items()
    )
    return f"All waiting processes together used this many cores while others were timed: {shares}."


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw speeds relative to float32: a row for each size, a panel for each batch size."""
    sizes = list(result["sizes"].values())
    heights = [len(size["labels"]) + 3 for size in sizes]
    columns = max(len(size["batches"]) for size in sizes)
    figure = Figure(figsize=(4 + 3 * columns, 0.24 * sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(sizes), columns, squeeze=False, sharex=True, height_ratios=heights)
    for row, size in zip(panels, sizes, strict=True):
        for axes, (batch_size, batch) in zip(row, size["batches"].items(), strict=False):
            _draw_panel(axes, size["labels"], batch)
            axes.set_title(
                f"{size['title']}\nbatch {batch_size}" if axes is row[0] else f"batch {batch_size}"
            )
            axes.title.set_size(10)
            if axes is not row[0]:
                axes.tick_params(labelleft=False)
    figure.supxlabel("Images per second relative to Hugging Face float32; dashed: NNCF INT8", fontsize=10)
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Axes, labels: Mapping[str, str], batch: dict[str, Any]) -> None:
    for position, name in enumerate(labels):
        color = _OURS if name.startswith("quee-") else _NNCF if name in NNCF else _THEIRS
        value = batch["rows"].get(name, {}).get("over_float32")
        if value is None:
            text = " not run" if name in batch["not_run"] else ""
            axes.text(0.02, position, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
            continue
        axes.barh(position, value["median"], color=color, height=0.7)
        axes.plot([value["low"], value["high"]], [position, position], color="black", linewidth=1.2)
        axes.text(value["high"], position, f"  {value['median']:.2f}", va="center", fontsize=8)
    nncf = batch["rows"].get(batch["nncf"] or "", {}).get("over_float32")
    if nncf is not None:
        axes.axvline(nncf["median"], color=_NNCF, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(labels)), list(labels.values()), fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)  # from top to bottom
    axes.margins(x=0.15)
    axes.grid(visible=True, axis="x", color="0.9")
    axes.set_axisbelow(True)
