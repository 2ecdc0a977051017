"""How much of the time that routing skips is really saved, and what gates and decisions cost.

Run: `python benchmarks/saving.py --model runs/speed/by-time`, on a quiet machine, after `by_time.py` and
`speed.py`. In each round every part of the model is timed at a batch size, then the whole network, the routed
batches and the routed stream, in an order drawn anew, on the same test images. From the times of the parts
follows what each image's path should take. Writes `benchmarks/results/saving.json` and
`docs/results/saving.md`.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from _speed_tables import quartiles
from _timing import RESULTS, write_result
from torch import Tensor

from quee_hf import QuEEForImageClassification
from quee_hf.execution.answers import answer, answer_stream
from quee_hf.execution.engines import make_engine
from quee_hf.execution.engines.graph_engine import GraphEngine
from quee_hf.execution.engines.network import EngineNetwork
from quee_hf.execution.network import Network, NetworkWrapper, Step
from quee_hf.execution.timing import PartTimes, time_parts
from quee_hf.graphs.builder import GraphBuilder
from quee_hf.graphs.exits import add_exit
from quee_hf.graphs.segments import add_segment
from quee_hf.levels import Level
from quee_hf.outputs import QuEEImageClassifierOutput
from quee_hf.routing.policy import Floats, Indices
from quee_hf.routing.router import Decision
from quee_hf.tables import markdown_table

ROOT = Path(__file__).parents[1]
BATCH_SIZES = (8, 32)
_PART_SECONDS = 2.0  # of timing parts, in each round
_GATE_REPEATS = 15


class Watch(NetworkWrapper):
    """A network that adds up how long it takes to run its parts, and to decide."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.parts = self.decisions = 0.0  # seconds

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map pixels to tokens."""
        start = time.perf_counter()
        found = super().embed(pixel_values)
        self.parts += time.perf_counter() - start
        return found

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        """Run a segment, read the exit after it, and ask the gate there."""
        start = time.perf_counter()
        found = self._network.advance(segment, level, hidden, seen)
        self.parts += time.perf_counter() - start
        return found

    def decide(self, depth: int, node: Indices, scores: Floats, cost_lambda: Floats) -> Decision:
        """Take one step."""
        start = time.perf_counter()
        found = super().decide(depth, node, scores, cost_lambda)
        self.decisions += time.perf_counter() - start
        return found


class Saving:
    """A model, images, and the ways to run them.

    Args:
        model: That routes.
        pixels: `(images, channels, height, width)`.
        batch_size: Of batches, and of the stream.
        cost_lambda: Of all images.
    """

    def __init__(
        self, model: QuEEForImageClassification, pixels: Tensor, batch_size: int, cost_lambda: float
    ) -> None:
        engine = make_engine("openvino", model)
        assert isinstance(engine, GraphEngine)
        self.model, self.engine = model, engine
        self.network = EngineNetwork(model, engine)
        self.pixels, self.batch_size = pixels, batch_size
        self.batches = pixels.split(batch_size)
        self.cost_lambda, self.full = cost_lambda, model.plan_route(None, [model.level_list[0]] * self.depth)

    @property
    def depth(self) -> int:
        """Number of segments."""
        return self.model.config.num_exits

    def run_full(self, network: Network) -> list[QuEEImageClassifierOutput]:
        """Send all batches to the end."""
        return [answer(network, batch, self.full) for batch in self.batches]

    def run_batches(self, network: Network) -> list[QuEEImageClassifierOutput]:
        """Route batch after batch."""
        return [answer(network, batch, self.cost_lambda) for batch in self.batches]

    def run_stream(self, network: Network) -> list[QuEEImageClassifierOutput]:
        """Route all images as a stream."""
        outputs: Iterator[QuEEImageClassifierOutput] = answer_stream(
            network, self.batches, self.cost_lambda, self.batch_size, self.pixels.device
        )
        return list(outputs)

    def ideal(self, times: PartTimes, outputs: list[QuEEImageClassifierOutput]) -> float:
        """Return the milliseconds per image that the paths should take by the times of their parts."""
        paths = torch.cat([output.path for output in outputs]).numpy()
        embedding, segments, after = (
            np.median(each, axis=-1) for each in (times.embedding, times.segments, times.after_segments)
        )
        ran = paths >= 0
        taken = np.take_along_axis(segments[None], np.maximum(paths, 0)[..., None].astype(int), axis=2)[
            ..., 0
        ]
        return float((embedding + (ran * (taken + after)).sum(axis=1)).mean())

    def round(self, draw: random.Random) -> dict[str, float]:
        """Time parts and ways once; milliseconds per image, and shares of the routed time."""
        times = time_parts(self.network, self.pixels[: self.batch_size], max_seconds=_PART_SECONDS)
        ways: dict[str, Callable[[Network], list[QuEEImageClassifierOutput]]] = {
            "full": self.run_full,
            "batches": self.run_batches,
            "stream": self.run_stream,
        }
        found: dict[str, float] = {}
        for name in draw.sample(list(ways), len(ways)):
            watch = Watch(self.network)
            start = time.perf_counter()
            outputs = ways[name](self.network if name == "full" else watch)
            seconds = time.perf_counter() - start
            found[name] = seconds * 1e3 / len(self.pixels)
            if name != "full":
                found[f"{name}_decisions"] = watch.decisions / seconds
                found[f"{name}_dispatch"] = (seconds - watch.parts - watch.decisions) / seconds
                found[f"{name}_ideal"] = self.ideal(times, outputs)
        return found

    def gate_milliseconds(self, exit_index: int) -> float:
        """Return what the gate after a segment adds to its graph, per image."""
        level = self.model.level_list[0]
        segment, head = self.engine.segment(exit_index, level), self.engine.exit(exit_index)
        graph = GraphBuilder("hidden", segment.shape)
        result = add_segment(graph, graph.input, segment)
        logits, _ = add_exit(graph, result, head)
        graph.output(result, "result", segment.shape)
        graph.output(logits, "logits", (head.num_labels,))
        return self._difference(self.engine._make_step(exit_index, level), graph.model("step"), exit_index)

    def _difference(self, longer: onnx.ModelProto, shorter: onnx.ModelProto, exit_index: int) -> float:
        level = self.model.level_list[0]
        hidden = self.network.embed(self.pixels[: self.batch_size])
        inputs, seen = [hidden], None
        for segment in range(exit_index):
            step = self.network.advance(segment, level, inputs[0], seen)
            assert step.hidden is not None
            inputs, seen = [step.hidden], step.reached.seen
        programs = [self.engine.compile(graph, level, self.batch_size) for graph in (longer, shorter)]
        given = [inputs if seen is None else [*inputs, seen], inputs]
        rounds = []
        for _ in range(_GATE_REPEATS):
            row = []
            for program, values in zip(programs, given, strict=True):
                start = time.perf_counter()
                program(values)
                row.append(time.perf_counter() - start)
            rounds.append(row[0] - row[1])
        return float(np.median(rounds[2:])) * 1e3 / self.batch_size


@torch.inference_mode()
def measure(saving: Saving, rounds: int) -> dict[str, Any]:
    """Measure at one batch size."""
    draw = random.Random(0)
    for _ in range(2):  # graphs are compiled for the sizes that come
        outputs = saving.run_batches(saving.network)
        saving.run_stream(saving.network)
        saving.run_full(saving.network)
    found = [saving.round(draw) for _ in range(rounds)]
    reached = torch.cat([output.exit_index for output in outputs])
    gates = sum(
        saving.gate_milliseconds(exit_index) * float((reached >= exit_index).float().mean())
        for exit_index in range(saving.depth - 1)
    )
    result: dict[str, Any] = {
        "share_at_exits": torch.bincount(reached, minlength=saving.depth).div(len(reached)).tolist()
    }
    result["ms_per_image"] = {
        name: quartiles([row[name] for row in found]) for name in ("full", "batches", "stream")
    }
    for way in ("batches", "stream"):
        result[way] = {
            "realised": quartiles(
                [(row["full"] - row[way]) / (row["full"] - row[f"{way}_ideal"]) for row in found]
            ),
            "ideal_ms": quartiles([row[f"{way}_ideal"] for row in found]),
            "decisions": quartiles([row[f"{way}_decisions"] for row in found]),
            "dispatch": quartiles([row[f"{way}_dispatch"] for row in found]),
            "gates": quartiles([gates / row[way] for row in found]),
        }
    return result


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the numbers as a page."""
    text = [
        "# How much of what routing skips is saved",
        f"Written by `python benchmarks/saving.py` on {result['date']}, with torch"
        f" {result['versions']['torch']}; {result['threads']} threads, {result['num_images']} test images,"
        f" {result['rounds']} rounds; medians with quartiles in parentheses.",
        "DINOv2-S at 70 px on the engine `openvino`, routed by time at"
        f" λ = {result['cost_lambda']}. *Ideal* is the time of each image's path by the times of its"
        " parts, run on whole batches of that size in the same round: embedding, segments, exits with their"
        " gates, and decisions. *Realised* is (whole network - routed) / (whole network - ideal); the whole"
        " network is one graph without exits. *Gates* is what gates add to the graphs of exits, *decisions*"
        " the router, and *dispatch* what is neither: taking images out of batches, queues, outputs.",
    ]
    rows = []
    for size, entry in result["batch_sizes"].items():
        for way in ("batches", "stream"):
            part, times = entry[way], entry["ms_per_image"]
            cells = [
                _cell(times["full"]),
                _cell(times[way]),
                _cell(part["ideal_ms"]),
                _cell(part["realised"]),
            ]
            shares = [_cell(part[name], 100) for name in ("gates", "decisions", "dispatch")]
            rows.append([f"{way} of {size}", *cells, *shares])
    titles = ["whole, ms", "routed, ms", "ideal, ms", "realised", "gates, %", "decisions, %", "dispatch, %"]
    text.append(markdown_table(["", *titles], rows))
    text.append(
        "The aims are a realised saving of 0.85 in batches of 8 and of 0.93 in batches of 32 and in the"
        " stream, and 3 % for gates, decisions and dispatch together."
    )
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _cell(values: dict[str, float], factor: float = 1.0) -> str:
    return "{:.3g} ({:.3g} to {:.3g})".format(*(factor * values[name] for name in ("median", "low", "high")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "speed" / "by-time")
    parser.add_argument(
        "--images", type=Path, default=ROOT / "runs" / "speed" / "dinov2-70" / "inputs" / "test.npy"
    )
    parser.add_argument("--num-images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if not arguments.images.exists():
        parser.error(f"there is no {arguments.images}: run benchmarks/speed.py first, which prepares it")
    torch.set_num_threads(arguments.threads)
    model = QuEEForImageClassification.from_pretrained(arguments.model).eval()
    pixels = torch.from_numpy(np.load(arguments.images, mmap_mode="r")[: arguments.num_images].copy())
    cost_lambda = float(model.config.cost_lambda)
    sizes = {
        str(size): measure(Saving(model, pixels, size, cost_lambda), arguments.rounds) for size in BATCH_SIZES
    }
    settings = {"cost_lambda": cost_lambda, "num_images": len(pixels), "rounds": arguments.rounds}
    write_result("saving", {**settings, "batch_sizes": sizes})
    result = json.loads((RESULTS / "saving.json").read_text())
    write_page(result, ROOT / "docs" / "results" / "saving.md")


if __name__ == "__main__":
    main()
