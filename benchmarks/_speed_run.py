"""A run of `speed.py`: prepares contenders, starts them and has them measured; keeps finished parts."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _speed_plan import ACCURACY_BATCH_SIZE, BASE, SIZES, STAGES, Contender, contenders
from _speed_prepare import NUM_TIMED
from _speed_tables import accuracy_entry
from _speed_turns import ContenderError, Worker, take_watched_turns

from quee_hf.execution.engines import ENGINES
from quee_hf.execution.operating_points import cheapest_within

HERE = Path(__file__).parent
ASSETS = Path(os.environ.get("QUEE_ASSETS", HERE.parents[1] / "shared" / "assets"))
MAX_DROP = (
    0.005  # accuracy that the routed model may lose on the images its operating points were measured on
)
WARMUP_SECONDS = 1.0


def default_lambda(config: dict[str, Any]) -> float:
    """Return the lambda of the cheapest operating point at most `MAX_DROP` below the full path.

    Of a model of `by_time.py`, that is its default.
    """
    measured = config["record"].get("measured")
    if measured is None:
        return float(config["cost_lambda"])
    full = measured["exits"][-1]["accuracy"]
    found = cheapest_within(config["operating_points"], full - MAX_DROP)
    if found is None:
        raise ValueError(f"No operating point is within {MAX_DROP} of {full}; give `--cost-lambda`.")
    return found


class Run:
    """One run: its settings, its folder, and what could not be prepared.

    Args:
        arguments: Of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.failures: dict[tuple[str, str], str] = {}
        cache = arguments.run / "inductor"
        self.environment = {
            **os.environ,
            "QUEE_ASSETS": str(ASSETS),
            "OMP_NUM_THREADS": str(arguments.threads),
            "HF_HUB_OFFLINE": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(cache.resolve()),
        }
        self.cost_lambda = arguments.cost_lambda
        if self.cost_lambda is None and (arguments.model / "config.json").exists():
            self.cost_lambda = default_lambda(json.loads((arguments.model / "config.json").read_text()))

    def settings(self) -> dict[str, Any]:
        """What a finished part must have been measured with to be taken over."""
        chosen = self.arguments
        weights = chosen.model / "model.safetensors"
        return {
            "model": [str(chosen.model), weights.stat().st_mtime if weights.exists() else None],
            "peers_python": str(chosen.peers_python),
            "cost_lambda": self.cost_lambda,
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
            **{name: getattr(chosen, name) for name in ("rounds", "seconds", "threads", "num_test")},
        }

    def prepare(self, size: str) -> None:
        """Run the stages that have not run yet; what fails is kept as a reason."""
        folder = self.arguments.run / size
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        for stage, needs_peers in STAGES.items():
            if (folder / stage).exists() or (stage == "quee" and SIZES[size].is_routed):
                continue
            if needs_peers and self.arguments.peers_python is None:
                self.failures[size, stage] = "needs --peers-python"
                continue
            print(f"{size}: {stage}", flush=True)
            shutil.rmtree(folder / f"{stage}.partial", ignore_errors=True)
            python = self.arguments.peers_python if needs_peers else sys.executable
            command = [python, HERE / "_speed_prepare.py", stage, folder, SIZES[size].source]
            log = folder / "logs" / f"stage-{stage}.log"
            with log.open("w") as output:
                words = [str(word) for word in command]
                done = subprocess.run(words, stdout=output, stderr=output, env=self.environment)
            if done.returncode:
                lines = log.read_text().strip().splitlines() or [f"code {done.returncode}"]
                self.failures[size, stage] = f"{stage} failed: {lines[-1][:200]}"

    def start(self, size: str, name: str, contender: Contender, batch_size: int) -> Worker:
        """Start a contender and wait until it is loaded and warm.

        Raises:
            ContenderError: If it cannot run.
        """
        chosen, folder = self.arguments, self.arguments.run / size
        for stage in ("inputs", *contender.stages):
            if (size, stage) in self.failures:
                raise ContenderError(self.failures[size, stage])
        if contender.is_peers and chosen.peers_python is None:
            raise ContenderError("needs --peers-python")
        model = chosen.model if SIZES[size].is_routed else folder / "quee"
        if contender.is_ours and not (model / "config.json").exists():
            raise ContenderError("no built model (see --model)")
        spec = {
            **contender.options,
            "kind": contender.kind,
            "folder": str(folder),
            "batch_size": batch_size,
            "threads": chosen.threads,
            "num_timed": NUM_TIMED,
            "warmup_seconds": WARMUP_SECONDS,
            "quee_model": str(model),
            "cost_lambda": self.cost_lambda,
        }
        python = chosen.peers_python if contender.is_peers else sys.executable
        command = [str(python), str(HERE / "_speed_contenders.py"), json.dumps(spec)]
        return Worker(command, folder / "logs" / f"{name}-{batch_size}.log", self.environment)

    def measure(self, size: str, batch_size: int) -> dict[str, Any]:
        """Measure all contenders of a size at a batch size."""
        rows = {
            name: contender
            for name, contender in contenders(size, ENGINES).items()
            if batch_size in contender.batch_sizes
        }
        workers: dict[str, Worker] = {}
        result: dict[str, Any] = {
            "labels": {name: contender.label for name, contender in rows.items()},
            "failures": {},
            "versions": {},
            "accuracy": {},
        }
        try:
            for name, contender in rows.items():
                try:
                    workers[name] = self.start(size, name, contender, batch_size)
                    result["versions"] |= workers[name].read()["versions"]
                except ContenderError as error:
                    result["failures"][name] = str(error)
                    if name in workers:
                        workers.pop(name).stop()
                state = result["failures"].get(name, "is ready")
                print(f"{size}, batch {batch_size}: {name} {state}", flush=True)
            time.sleep(1)
            self._take_turns(size, batch_size, workers, result)
        finally:
            for worker in workers.values():
                worker.stop()
        return result

    def _take_turns(
        self, size: str, batch_size: int, workers: dict[str, Worker], result: dict[str, Any]
    ) -> None:
        """Add what is measured of processes that are ready."""
        chosen = self.arguments
        visits, failures, waiting = take_watched_turns(workers, rounds=chosen.rounds, seconds=chosen.seconds)
        result |= {"visits": visits, "waiting": waiting}
        result["failures"] |= failures
        if batch_size == ACCURACY_BATCH_SIZE:
            result["accuracy"] = self.classify(size, {name: workers[name] for name in visits})

    def classify(self, size: str, workers: dict[str, Worker]) -> dict[str, Any]:
        """Compare classes with labels, and logits with those of the first contender."""
        folder = self.arguments.run / size
        labels = np.load(folder / "inputs" / "labels.npy")
        count = min(self.arguments.num_test, len(labels)) // ACCURACY_BATCH_SIZE * ACCURACY_BATCH_SIZE
        labels, results, reference = labels[:count], {}, None
        for name in sorted(workers, key=lambda name: name != BASE):
            path = folder / "logits.npy"
            workers[name].ask("classify", count=count, path=str(path))
            logits = np.load(path).astype(np.float64)
            reference = logits if reference is None else reference
            results[name] = accuracy_entry(logits, reference, labels)
        return results


def part(run: Run, size: str, batch_size: int) -> dict[str, Any]:
    """Measure a part, or read it if it is finished."""
    path = run.arguments.run / size / f"batch-{batch_size}.json"
    settings = json.loads(json.dumps(run.settings()))
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["settings"] == settings:
            print(f"{size}, batch {batch_size}: taken over", flush=True)
            return kept
    measured = {"settings": settings, **run.measure(size, batch_size)}
    path.write_text(json.dumps(measured))
    return measured
