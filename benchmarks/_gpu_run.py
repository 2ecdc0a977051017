"""A run of `gpu.py`: prepares contenders, loads them all and has them take turns in this process."""

import argparse
import gc
import json
import shutil
import traceback
from typing import Any

import numpy as np
import torch
from _gpu_contenders import BASE, COMPILED, LOADERS, STAGES, contenders
from _speed_contenders import Session
from _speed_plan import ACCURACY_BATCH_SIZE, SIZES, Contender
from _speed_prepare import NUM_TIMED, run_stage
from _speed_run import default_lambda
from _speed_tables import accuracy_entry, speed_rows
from _speed_turns import ContenderError, take_turns

WARMUP_SECONDS = 1.0
REFERENCES = {"over_float32": BASE, "over_compiled": COMPILED}


class LocalContender:
    """A contender in this process; whatever a library raises becomes the reason in the table.

    Args:
        spec: As a loader takes it.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        try:
            self.session = Session(LOADERS[spec["kind"]](spec), spec)
        except Exception as error:
            raise _reason(error) from error
        # Compiled once; kernels chosen and CUDA graphs recorded are a matter of the next few runs.
        self.ask("visit", seconds=spec["warmup_seconds"])

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Do something.

        Raises:
            ContenderError: If it fails.
        """
        try:
            return getattr(self.session, do)(**arguments)
        except Exception as error:
            raise _reason(error) from error


def _reason(error: Exception) -> ContenderError:
    traceback.print_exception(error)
    return ContenderError(" ".join(f"{type(error).__name__}: {error}".split())[:200])


class GpuRun:
    """One run: its settings and its folder.

    Args:
        arguments: Of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.cost_lambda = arguments.cost_lambda
        if self.cost_lambda is None and arguments.model is not None:
            self.cost_lambda = default_lambda(json.loads((arguments.model / "config.json").read_text()))

    @property
    def accuracy_batch_size(self) -> int:
        """The batch size at which accuracy is found."""
        sizes = self.arguments.batch_sizes
        return ACCURACY_BATCH_SIZE if ACCURACY_BATCH_SIZE in sizes else max(sizes)

    def settings(self) -> dict[str, Any]:
        """What a finished part must have been measured with to be taken over."""
        chosen = self.arguments
        names = ("device", "rounds", "seconds", "num_test")
        kept = {name: getattr(chosen, name) for name in names}
        return {
            **kept,
            "model": str(chosen.model),
            "cost_lambda": self.cost_lambda,
            "torch": torch.__version__,
        }

    def prepare(self, size: str) -> None:
        """Make what contenders are made from, unless it is there."""
        folder = self.arguments.run / size
        folder.mkdir(parents=True, exist_ok=True)
        for stage in STAGES:
            if not (folder / stage).exists():
                print(f"{size}: {stage}", flush=True)
                shutil.rmtree(folder / f"{stage}.partial", ignore_errors=True)
                run_stage(stage, folder, SIZES[size].source)

    def measure(self, size: str, batch_size: int) -> dict[str, Any]:
        """Measure all contenders of a size at a batch size."""
        rows = contenders(size)
        running: dict[str, LocalContender] = {}
        result: dict[str, Any] = {
            "labels": {name: contender.label for name, contender in rows.items()},
            "failures": {},
            "versions": {},
            "accuracy": {},
        }
        for name, contender in rows.items():
            try:
                running[name] = LocalContender(self._spec(size, contender, batch_size))
                result["versions"] |= running[name].session.describe()["versions"]
            except ContenderError as error:
                result["failures"][name] = str(error)
            state = result["failures"].get(name, "is ready")
            print(f"{size}, batch {batch_size}: {name} {state}", flush=True)
        chosen = self.arguments
        result["visits"], failures = take_turns(running, rounds=chosen.rounds, seconds=chosen.seconds)
        result["failures"] |= failures
        if batch_size == self.accuracy_batch_size:
            result["accuracy"] = self._classify(size, {name: running[name] for name in result["visits"]})
        running.clear()
        torch.compiler.reset()  # forgets what was compiled: it holds memory, and its number is limited
        gc.collect()
        if chosen.device != "cpu":
            torch.cuda.empty_cache()
        return result

    def _spec(self, size: str, contender: Contender, batch_size: int) -> dict[str, Any]:
        """Return what a contender is loaded from.

        Raises:
            ContenderError: If it is missing.
        """
        chosen, folder = self.arguments, self.arguments.run / size
        is_routed = contender.options.get("is_routed", False)
        if is_routed and chosen.model is None:
            raise ContenderError("no built model (see --model)")
        return {
            **contender.options,
            "kind": contender.kind,
            "folder": str(folder),
            "device": chosen.device,
            "batch_size": batch_size,
            "num_timed": max(NUM_TIMED, batch_size),
            "warmup_seconds": min(WARMUP_SECONDS, chosen.seconds),
            "quee_model": str(chosen.model if is_routed else folder / "quee-levels"),
            "cost_lambda": self.cost_lambda,
        }

    def _classify(self, size: str, running: dict[str, LocalContender]) -> dict[str, Any]:
        """Compare classes with labels, and logits with those of the first contender."""
        folder, batch_size = self.arguments.run / size, self.accuracy_batch_size
        labels, results, reference = np.load(folder / "inputs" / "labels.npy"), {}, None
        count = min(self.arguments.num_test, len(labels)) // batch_size * batch_size
        for name in sorted(running, key=lambda name: name != BASE):
            path = folder / "logits.npy"
            running[name].ask("classify", count=count, path=str(path))
            logits = np.load(path).astype(np.float64)
            reference = logits if reference is None else reference
            results[name] = accuracy_entry(logits, reference, labels[:count])
        return results


def summarize_batch(batch_size: int, part: dict[str, Any]) -> dict[str, Any]:
    """Reduce the visits of a part to medians and quartiles."""
    rows = speed_rows(batch_size, part["visits"], REFERENCES)
    return {"rows": rows, "not_run": part["failures"]}
