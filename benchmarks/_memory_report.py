"""Results of `memory.py` as a page and as a picture."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from quee_hf.tables import markdown_table

BAR = 1.15  # of int8 and bfloat16 weights together: what serving should take at most, beside activations
_KEPT, _GIVEN = "#56B4E9", "#D55E00"  # Okabe and Ito


def write_page(result: dict[str, Any], folder: Path) -> None:
    """Write `memory.md` and `memory.png`."""
    draw(result, folder / "memory.png")
    versions = {**result["versions"], **result["engine_versions"]}
    named = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    text = [
        "# Memory",
        f"Written by `python benchmarks/memory.py` on {result['date']}, with {named}.",
        f"{result['model']}; {result['threads']} threads, batches of {result['batch_size']}, routed by gates"
        " that are not trained, after every segment has run at every level that routing may choose. Each"
        f" configuration is measured in processes of its own, {result['rounds']} of them; medians, in MB"
        " of a million bytes, above the same process after it has loaded and run a tiny model of the same"
        " kind on the same engine.",
        '*On paper* are the bytes of all tensors: codes at their bits, bfloat16 for "bf16", and the rest'
        " (exits, embedding, norms, biases) in float32. *Resident* is what is there after serving; in"
        " parentheses, what of it is not pages of files: those of the model's file are there until its"
        " weights are dropped, and the system may take them back at any time. *Peak, preparing* is from"
        " before loading until every part has run once; *peak, serving* is the highest resident size while"
        " batches are routed, activations included.",
        _verdict(result),
        "![Peak while serving, by engine](memory.png)",
        *_sections(result["rows"]),
    ]
    (folder / "memory.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _verdict(result: dict[str, Any]) -> str:
    """Say which engines stay within the bar at levels 8 and "bf16"."""
    rows = [row for row in result["rows"] if row["levels"] == ["bf16", 8] and not row["keeps_weights"]]
    ratios = {row["engine"]: row["serving_over_weights"] for row in rows}
    within = [f"`{name}` ({ratio:.2f})" for name, ratio in ratios.items() if ratio <= BAR]
    above = [f"`{name}` ({ratio:.2f})" for name, ratio in ratios.items() if ratio > BAR]
    return (
        f"The aim is a peak of at most {BAR} times the weights on paper, plus activations, at levels 8 and"
        ' "bf16", with weights that only the engine has. Activations included,'
        f" {', '.join(within) or 'no engine'} stays within it; {', '.join(above) or 'no engine'} does not."
        ' OpenVINO keeps the constants of a graph beside what it packs of them, those of "bf16" in float32,'
        ' and some MB for each graph. ONNX Runtime has no products in bfloat16 on the CPU: "bf16" takes 4'
        " bytes for each weight there."
    )


def _sections(rows: list[dict[str, Any]]) -> list[str]:
    text = []
    for levels in {str(row["levels"]): row["levels"] for row in rows}.values():
        chosen = [row for row in rows if row["levels"] == levels]
        paper = chosen[0]["weights_mb"]
        parts = ", ".join(f"{paper[part]:.1f} {name}" for part, name in _PARTS.items() if paper[part])
        text += [
            f"## Levels {', '.join(map(str, levels))}",
            f"On paper {paper['all']:.1f} MB: {parts}.",
            markdown_table(_TITLES, [_cells(row) for row in chosen]),
        ]
    return text


_PARTS = {"codes": "codes", "bf16": "bfloat16", "rest": "the rest"}
_TITLES = [
    "engine",
    "weights in PyTorch",
    "resident (not of files)",
    "peak, preparing (not of files)",
    "peak, serving",
    "peak, serving, over weights on paper",
]


def _cells(row: dict[str, Any]) -> list[str]:
    sizes = row["mb"]
    return [
        f"`{row['engine']}`",
        "kept" if row["keeps_weights"] else "dropped",
        f"{sizes['resident']:.0f} ({sizes['resident_anonymous']:.0f})",
        f"{sizes['peak_preparing']:.0f} ({sizes['peak_preparing_anonymous']:.0f})",
        f"{sizes['peak_serving']:.0f}",
        f"{row['serving_over_weights']:.2f}",
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the peak while serving of each engine, with the weights on paper as a line."""
    rows = result["rows"]
    names = list({str(row["levels"]): row["levels"] for row in rows}.values())
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    highest = max(row["mb"]["peak_serving"] for row in rows)
    for axes, levels in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        chosen = [row for row in rows if row["levels"] == levels]
        engines = list(dict.fromkeys(row["engine"] for row in chosen))
        for row in chosen:
            place = engines.index(row["engine"]) + (-0.2 if row["keeps_weights"] else 0.2)
            color = _KEPT if row["keeps_weights"] else _GIVEN
            axes.barh(place, row["mb"]["peak_serving"], height=0.36, color=color)
        axes.axvline(chosen[0]["weights_mb"]["all"], color="black", linewidth=1, linestyle="--")
        axes.set_yticks(range(len(engines)), engines)
        axes.set_xlim(0, 1.05 * highest)
        axes.set_title(f"levels {', '.join(map(str, levels))}", fontsize=10)
        axes.set_xlabel("MB, peak while serving")
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    for color, label in ((_KEPT, "weights kept in PyTorch"), (_GIVEN, "weights dropped")):
        axes.barh(0, 0, color=color, label=label)
    axes.axvline(-1, color="black", linewidth=1, linestyle="--", label="weights on paper")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
