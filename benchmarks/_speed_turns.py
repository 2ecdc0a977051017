"""Processes of contenders, asked in turns: all see the same machine, and none disturbs another."""

import json
import os
import random
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Rounds = dict[str, list[dict[str, Any]]]
_TICKS = os.sysconf("SC_CLK_TCK")


class ContenderError(RuntimeError):
    """A contender does not run; the message says why."""


class Worker:
    """A contender's process.

    Args:
        command: That runs it.
        log: File for what it prints.
        environment: Of the process.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(environment),
                text=True,
            )
        self.visited_cpu = 0.0
        self.idle_start = 0.0

    def read(self) -> dict[str, Any]:
        """Wait for an answer.

        Raises:
            ContenderError: If it says that something is wrong, or says nothing.
        """
        line = self.process.stdout.readline()
        if not line:
            raise ContenderError(f"the process ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for the answer."""
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `read` says why
        answer = self.read()
        self.visited_cpu += answer["cpu_seconds"]
        return answer

    def cpu_seconds(self) -> float:
        """Processor time that the process has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def start_watch(self) -> None:
        """From here on, time used between commands counts as idle."""
        self.visited_cpu, self.idle_start = 0.0, self.cpu_seconds()

    def idle_cpu(self) -> float:
        """Processor seconds used between commands since `start_watch`."""
        return max(0.0, self.cpu_seconds() - self.idle_start - self.visited_cpu)

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Contender(Protocol):
    """What takes turns."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Do something; a `ContenderError` takes it out."""


def take_turns(
    contenders: Mapping[str, Contender], *, rounds: int, seconds: float
) -> tuple[Rounds, dict[str, str]]:
    """Visit all contenders once a round, in an order that is drawn anew for each.

    Returns:
        The visits of each that ran to the end, and why others did not.
    """
    order, draw = list(contenders), random.Random(0)
    visits: Rounds = {name: [] for name in contenders}
    failures: dict[str, str] = {}
    for _ in range(rounds):
        draw.shuffle(order)
        for name in list(order):
            try:
                visits[name].append(contenders[name].ask("visit", seconds=seconds))
            except ContenderError as error:
                failures[name] = str(error)
                order.remove(name)
    return {name: visits[name] for name in contenders if name not in failures}, failures


def take_watched_turns(
    workers: Mapping[str, Worker], *, rounds: int, seconds: float
) -> tuple[Rounds, dict[str, str], dict[str, Any]]:
    """Do what `take_turns` does, and return what waiting processes used of the processors, too."""
    for worker in workers.values():
        worker.start_watch()
    start = time.perf_counter()
    visits, failures = take_turns(workers, rounds=rounds, seconds=seconds)
    wall = time.perf_counter() - start
    shares = {name: workers[name].idle_cpu() / wall for name in visits}
    worst = max(shares, key=lambda name: shares[name])
    idle = {"cores_used": sum(shares.values()), "most": worst, "cores_used_by_it": shares[worst]}
    return visits, failures, {**idle, "seconds": wall}
