"""Results of `speed.py` as numbers, as a page and as a picture."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _speed_plan import ACCURACY_BATCH_SIZE, BASE, NNCF
from _speed_tables import (
    about_quality,
    cells,
    draw_ratios,
    mean_times,
    quality,
    speed_rows,
    summarize_batches,
)

from quee_hf.tables import markdown_table

COMMAND = "python benchmarks/speed.py --peers-python PEERS/bin/python"
_AIMS = (
    "The aims, at batch 8 and 32: the whole network at 8 bits at 0.95 times the speed of OpenVINO with NNCF"
    " INT8 and 6 times that of Hugging Face float32; routed, at half a point less than float32, 1.3 times"
    " the speed of the fastest static INT8 peer and 8 times that of Hugging Face float32."
)
_PEERS = (
    "Peers run at their best as far as we found it. ONNX Runtime and OpenVINO compile for each batch "
    "size. ONNX Runtime INT8 has weights in int8 by channel and activations in uint8, for Conv, Gemm "
    "and MatMul, with the ranges of 300 images. NNCF quantizes with its settings for transformers and "
    "300 images; what is not integer runs in float32 or bfloat16, and the faster of the two at a batch "
    "size is called NNCF here. torchao compiles for each batch size, with `max-autotune` and frozen "
    "weights. OpenVINO's hint is LATENCY."
)


def summarize(parts: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Reduce the visits of all batch sizes to medians and quartiles."""
    return summarize_batches(parts, _summarize_batch)


def _summarize_batch(batch_size: int, part: dict[str, Any]) -> dict[str, Any]:
    times = mean_times(part["visits"])
    settings = [name for name in NNCF if name in times]
    nncf = min(settings, key=lambda name: statistics.median(times[name])) if settings else None
    rows = speed_rows(batch_size, part["visits"], {"over_float32": BASE, "over_nncf": nncf})
    return {"rows": rows, "not_run": part["failures"], "nncf": nncf, "waiting": part["waiting"]}


def write_page(result: dict[str, Any], folder: Path) -> None:
    """Write `speed.md` and `speed.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_ratios(
        list(result["sizes"].values()),
        folder / "speed.png",
        field="over_float32",
        title="Images per second relative to Hugging Face float32; dashed: NNCF INT8",
        marked=lambda batch: batch["nncf"],
    )
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
        _AIMS,
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
    heading = "accuracy, % (95 %)" if is_routed else "logits differ by"
    rows = [
        [size["labels"][name], *cells(batches, name, "over_float32"), quality(size, name, is_routed)]
        for name in size["labels"]
    ]
    speeds = [
        [
            size["labels"][name],
            *cells(batches, name, "images_per_second"),
            *cells(batches, name, "latency_ms"),
        ]
        for name in size["labels"]
    ]
    return [
        *text,
        "Images per second relative to Hugging Face float32:",
        markdown_table(["", *titles, heading], rows),
        about_quality(size, is_routed, ACCURACY_BATCH_SIZE),
        _about_nncf(size, ours),
        markdown_table(
            ["", *titles], [[size["labels"][name], *cells(batches, name, "over_nncf")] for name in ours]
        ),
        "Images per second, and milliseconds of a batch (median of a visit):",
        markdown_table(["", *titles, *(f"{title}, ms" for title in titles)], speeds),
        _waiting(batches),
    ]


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
