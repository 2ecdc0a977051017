"""How long single images take, by the exit where they leave, beside a static INT8 model.

Run: `python benchmarks/single.py --model runs/speed/by-time`, on a quiet machine, after `speed.py`, which
leaves the peer, OpenVINO with NNCF INT8, in `runs/speed/`. Each image is run by all contenders in turn, in
an order drawn anew, many times. Writes `benchmarks/results/single.json` and `docs/results/single.md`.
"""

import argparse
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _speed_contenders import load_openvino
from _speed_tables import quartiles
from _timing import RESULTS, write_result
from tqdm import tqdm

from quee_hf import QuEEForImageClassification
from quee_hf.tables import markdown_table

ROOT = Path(__file__).parents[1]
PEER, WHOLE, ROUTED = "NNCF INT8", "whole network", "routed"
_WARMUP = 10


def contenders(arguments: argparse.Namespace, model: QuEEForImageClassification) -> dict[str, Any]:
    """Return what is run on an image, `(1, channels, height, width)`, by name."""
    settings = {"folder": str(arguments.run), "model": "nncf", "batch_size": 1, "threads": arguments.threads}
    peers = {
        f"{PEER}, rest {name}": load_openvino({**settings, "precision": precision})
        for name, precision in (("float32", "f32"), ("bfloat16", "bf16"))
    }
    path = [model.level_list[0]] * model.config.num_exits
    found: dict[str, Callable[[Any], Any]] = {
        name: lambda image, peer=peer: peer.run(image.numpy()) for name, peer in peers.items()
    }
    found[WHOLE] = lambda image: model(image, path=path)
    found[ROUTED] = lambda image: model(image)
    return found


@torch.inference_mode()
def measure(runs: dict[str, Any], images: torch.Tensor, rounds: int) -> dict[str, dict[int, list[float]]]:
    """Return the median milliseconds of each image with each contender, by the exit where it is routed to."""
    draw, times = random.Random(0), {name: defaultdict(list) for name in runs}
    for image in images[:_WARMUP].split(1):
        for run in runs.values():
            run(image)
    for image in tqdm(images.split(1), unit="image"):
        exit_index = int(runs[ROUTED](image).exit_index)
        own: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name in draw.sample(list(runs), len(runs)):
                start = time.perf_counter()
                runs[name](image)
                own[name].append((time.perf_counter() - start) * 1e3)
        for name, values in own.items():
            times[name][exit_index].append(statistics.median(values))
    return {name: dict(sorted(by_exit.items())) for name, by_exit in times.items()}


def summarize(times: dict[str, dict[int, list[float]]], num_exits: int) -> list[dict[str, Any]]:
    """Reduce to quartiles over images, for each exit and for all; ratios are taken image by image."""
    peers = [name for name in times if name.startswith(PEER)]
    best = min(peers, key=lambda name: statistics.median(chain.from_iterable(times[name].values())))
    rows = []
    for chosen in [[index] for index in range(num_exits)] + [list(range(num_exits))]:
        values = {
            name: [value for index in chosen for value in by_exit.get(index, [])]
            for name, by_exit in times.items()
        }
        if not values[ROUTED]:
            continue
        rows.append(
            {
                "exits": chosen,
                "num_images": len(values[ROUTED]),
                "peer": best,
                "ms": {name: quartiles(each) for name, each in values.items()},
                "over_peer": {
                    name: quartiles([a / b for a, b in zip(values[name], values[best], strict=True)])
                    for name in (WHOLE, ROUTED)
                },
            }
        )
    return rows


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the numbers as a page."""
    blocks, rows = result["exit_blocks"], []
    for row in result["rows"]:
        name = "all" if len(row["exits"]) > 1 else f"block {blocks[row['exits'][0]]}"
        cells = [_cell(row["ms"][key]) for key in (row["peer"], WHOLE, ROUTED)]
        ratios = [_cell(row["over_peer"][key]) for key in (WHOLE, ROUTED)]
        rows.append([name, str(row["num_images"]), *cells, *ratios])
    titles = ["leaves after", "images", f"{PEER}, ms", "whole, ms", "routed, ms"]
    titles += ["time of whole / NNCF", "time of routed / NNCF"]
    text = [
        "# Single images",
        f"Written by `python benchmarks/single.py` on {result['date']}, with torch"
        f" {result['versions']['torch']}; {result['threads']} threads, {result['num_images']} test images,"
        f" each {result['rounds']} times with each contender, in turns.",
        f"DINOv2-S at 70 px on the engine `openvino`, λ = {result['cost_lambda']}. The peer is OpenVINO with"
        f" {result['rows'][0]['peer']}, compiled for one image, the faster of its settings. *Whole* is the"
        " whole network at 8 bits without gates. Medians over images of each one's median, with quartiles in"
        " parentheses; ratios are taken image by image.",
        "The aim is at most 1.05 for the whole network, and less in proportion for images that leave early.",
        markdown_table(titles, rows),
    ]
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _cell(values: dict[str, float]) -> str:
    return "{median:.2f} ({low:.2f} to {high:.2f})".format(**values)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "speed" / "by-time")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "speed" / "dinov2-70")
    parser.add_argument("--num-images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if not (images := arguments.run / "inputs" / "test.npy").exists():
        parser.error(f"there is no {images}: run benchmarks/speed.py first, which prepares it")
    torch.set_num_threads(arguments.threads)
    model = QuEEForImageClassification.from_pretrained(arguments.model).eval()
    model.set_engine("openvino")
    pixels = np.load(images, mmap_mode="r")[: arguments.num_images]
    times = measure(contenders(arguments, model), torch.from_numpy(pixels.copy()), arguments.rounds)
    settings = {"num_images": len(pixels), "rounds": arguments.rounds}
    config = model.config
    settings |= {"cost_lambda": config.cost_lambda, "exit_blocks": config.exit_blocks}
    write_result("single", {**settings, "rows": summarize(times, config.num_exits)})
    result = json.loads((RESULTS / "single.json").read_text())
    write_page(result, ROOT / "docs" / "results" / "single.md")


if __name__ == "__main__":
    main()
