"""Starting two processes on CPUs, as a user would, within a time limit."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
_BIN = Path(sys.executable).parent
LAUNCHERS = {
    "torchrun": [_BIN / "torchrun", "--standalone", "--nproc_per_node", "2"],
    # `--cpu --num_processes 2` would start one process, and say nothing.
    "accelerate": [
        *(_BIN / "accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ],
}
# Both end in the same elastic launcher: one of them is enough where time is short.
EACH_LAUNCHER = ["torchrun", pytest.param("accelerate", marks=pytest.mark.slow)]
_NOT_A_SCRIPT = {"torchrun": "--no-python", "accelerate": "--no_python"}
_LIMIT_SECONDS = 240


def launch(
    command: Sequence[object],
    *,
    launcher: str = "torchrun",
    is_script: bool = True,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in two processes; `subprocess.TimeoutExpired` if they hang."""
    paths = [str(REPOSITORY / "src"), str(REPOSITORY)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        **({"ACCELERATE_USE_CPU": "true"} if launcher == "accelerate" else {}),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
    }
    prefix = [*LAUNCHERS[launcher], *([] if is_script else [_NOT_A_SCRIPT[launcher]])]
    return subprocess.run(
        [str(part) for part in (*prefix, *command)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_SECONDS,
    )
