"""Results of `gpu.py` as a page and as a picture."""

from pathlib import Path
from typing import Any

from _gpu_contenders import COMPILED
from _speed_tables import about_quality, cells, draw_ratios, quality

from quee_hf.tables import markdown_table

COMMAND = "python benchmarks/gpu.py --model RUN/model"
_METHOD = (
    'Compiled models are those of `torch.compile(dynamic=False, mode="max-autotune")` at each batch size, on'
    " CUDA with CUDA graphs; float32 runs without TF32. QuEE's whole paths are of a model that is made of"
    " Hugging Face's with `repq` and one exit; attention's products stay in bfloat16. Images lie in the"
    " memory of the device before they are timed; gates, decisions and all transfers that these need are"
    " timed."
)


def write_page(result: dict[str, Any], folder: Path) -> None:
    """Write `gpu.md` and `gpu.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_ratios(
        list(result["sizes"].values()),
        folder / "gpu.png",
        field="over_float32",
        title="Images per second relative to Hugging Face float32; dashed: bfloat16, compiled",
        marked=lambda _: COMPILED,
    )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    text = [
        f"# Speed on a {'GPU' if result['device'] == 'cuda' else 'CPU, a trial'}",
        f"Written by `{COMMAND}` on {result['date']}, with {versions}.",
        f"{result['processor']}; host: {result['host']}. One process. In each of {result['rounds']} rounds"
        " all contenders are asked in turn, in an order drawn anew, to run real images for about"
        f" {result['seconds_per_visit']} s; the device is waited for after each batch. Loading, compiling and"
        " preprocessing are not timed. Numbers are medians over rounds, with quartiles in parentheses; ratios"
        " are taken within a round.",
        _METHOD,
        "![Images per second relative to Hugging Face float32](gpu.png)",
    ]
    for size in result["sizes"].values():
        text += _section(size, result)
    (folder / "gpu.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _section(size: dict[str, Any], result: dict[str, Any]) -> list[str]:
    labels, batches = size["labels"], size["batches"]
    titles = [f"batch {batch}" for batch in batches]
    is_routed = any(name.endswith("routed") for name in labels)
    text = [f"## {size['title']}"]
    if is_routed and result["cost_lambda"] is not None:
        text.append(f"The routed model is a built one, at λ = {result['cost_lambda']}.")

    def table(*fields: str) -> list[list[str]]:
        return [
            [label, *(cell for field in fields for cell in cells(batches, name, field))]
            for name, label in labels.items()
        ]

    heading = "accuracy, % (95 %)" if is_routed else "logits differ by"
    rows = zip(table("over_float32"), labels, strict=True)
    return [
        *text,
        "Images per second relative to Hugging Face float32:",
        markdown_table(
            ["", *titles, heading], [[*row, quality(size, name, is_routed)] for row, name in rows]
        ),
        about_quality(size, is_routed, result["accuracy_batch_size"]),
        f"Relative to {labels[COMPILED]}:",
        markdown_table(["", *titles], table("over_compiled")),
        "Images per second, and milliseconds of a batch (median of a visit):",
        markdown_table(
            ["", *titles, *(f"{title}, ms" for title in titles)], table("images_per_second", "latency_ms")
        ),
    ]
