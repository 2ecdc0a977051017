"""Several processes at work together, as `torchrun` and `accelerate launch` start them. Imports no torch."""

import atexit
import os
from typing import TYPE_CHECKING, Any

from quee_hf.errors import QuEEError

if TYPE_CHECKING:
    import torch


def num_processes() -> int:
    """Return how many processes were started together; 1 stands for one that is alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def process_index() -> int:
    """Return the place of this process among those that were started together, from 0."""
    return int(os.environ["RANK"]) if num_processes() > 1 else 0


def is_main_process() -> bool:
    """Tell whether this is the process that writes and shows what all have found."""
    return process_index() == 0


def check_alone(what: str) -> None:
    """Raise `QuEEError` if there are other processes that would do the same work.

    Args:
        what: Would be done, as the beginning of a sentence.
    """
    if (count := num_processes()) > 1:
        raise QuEEError(f"{what} runs in one process, but {count} were started together: start one.")


def meet(device: "torch.device") -> Any:
    """Return the `accelerate.PartialState` of this process, after it has met the others.

    On CPUs the process takes leave of them when it ends: PyTorch leaves threads behind that may abort an
    interpreter on its way out. NCCL would wait for the others, who may have failed.

    Args:
        device: Where the work is done. On a CPU, accelerate does not look for other processes unless told.

    Raises:
        QuEEError: If accelerate has been set up for one process before.
    """
    from accelerate import PartialState  # not needed by one process

    state = PartialState(cpu=device.type == "cpu")
    if state.num_processes != num_processes():
        raise QuEEError(
            f"{num_processes()} processes were started together, but accelerate was set up for one: on CPUs,"
            " give `use_cpu=True` to `TrainingArguments`, or set the environment variable"
            " ACCELERATE_USE_CPU=true."
        )
    if device.type == "cpu":
        atexit.unregister(_leave)  # once is enough
        atexit.register(_leave)
    return state


def _leave() -> None:
    from accelerate import PartialState

    PartialState().destroy_process_group()
