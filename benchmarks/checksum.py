"""Loading weights that carry a checksum, beside the same weights without one.

Run: `python benchmarks/checksum.py`. The model is DINOv2-S from `QUEE_ASSETS`, at three levels. Writes
`benchmarks/results/checksum.json` and a sentence in `docs/faults.md`.
"""

import shutil
import tempfile
from pathlib import Path

import torch
from _results import write_section
from _timing import interleaved_ms, ratio, spread, write_result
from assets import ASSETS
from safetensors.torch import load_file, save_file

from quee_hf import QuEEForImageClassification, quantize

ROOT = Path(__file__).parents[1]
SOURCE = ASSETS / "models" / "dinov2-small-cifar10-70px"
EXITS, LEVELS, REPEATS, THREADS = [4, 6, 8, 10, 12], [8, 6, 5], 21, 2


def _save(folder: Path) -> dict[str, Path]:
    """Save a model, and again as a tool would that knows nothing of checksums."""
    model = QuEEForImageClassification.from_backbone(SOURCE, exit_blocks=EXITS, levels=LEVELS)
    quantize(model, torch.randn(4, 3, 70, 70, generator=torch.Generator().manual_seed(0)), method="min_max")
    model.save_pretrained(folder / "with")
    shutil.copytree(folder / "with", folder / "without")
    file = folder / "without" / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    return {name: folder / name for name in ("with", "without")}


def main() -> None:
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        saved = _save(Path(folder))
        size = (saved["with"] / "model.safetensors").stat().st_size / 1e6
        times = interleaved_ms(
            {
                name: lambda path=path: QuEEForImageClassification.from_pretrained(path)
                for name, path in saved.items()
            },
            repeats=REPEATS,
        )
    over = ratio(times["with"], times["without"])
    taken = {name: spread(values) for name, values in times.items()}
    write_result("checksum", {"megabytes": size, "ms": taken, "with_over_without": over})
    low, median, high = (f"{over[name]:.2f}" for name in ("low", "median", "high"))
    text = (
        f"Loading a DINOv2-S at levels 8, 6 and 5 ({size:.0f} MB) takes {median} ({low} to {high})"
        f" times as long with the checksum compared as without one ({REPEATS} rounds in turn, {THREADS}"
        " threads)."
    )
    write_section(ROOT / "docs" / "faults.md", text, command="python benchmarks/checksum.py", name="checksum")


if __name__ == "__main__":
    main()
