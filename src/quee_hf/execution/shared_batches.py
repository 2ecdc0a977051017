"""Running something on all batches of a data set, which several processes share."""

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler
from tqdm.auto import tqdm

from quee_hf.execution.finite import check_finite
from quee_hf.processes import meet, num_processes


def run_batches(
    dataset: Dataset[Any],
    run: Callable[[Any], Sequence[Tensor]],
    *,
    batch_size: int,
    device: torch.device,
    title: str,
) -> Iterator[Sequence[Tensor]]:
    """Run something on the batches of a data set, with a progress bar, and yield what it returns, in order.

    Several processes take turns: each runs some of the batches, and all get what comes of all of them.
    Batches are those that one process would have run.

    Args:
        dataset: Items with `pixel_values`; with a length, if there are several processes.
        run: Maps a batch to tensors with a row for each image.
        batch_size: Images per batch.
        device: Where `run` computes.
        title: Of the progress bar.

    Raises:
        TypeError: If several processes cannot divide the data set.
        ValueError: If an image holds NaN or infinity.
        QuEEError: If accelerate has been set up for one process, but there are several.
    """
    if num_processes() == 1:
        loader = DataLoader(dataset, batch_size=batch_size)
        for number, batch in enumerate(tqdm(loader, desc=title, unit="batch")):
            check_finite(batch["pixel_values"], number * batch_size)
            yield run(batch)
        return
    if not isinstance(dataset, Sized):
        raise TypeError(f"Several processes need a data set with a length, got {type(dataset).__name__}.")
    from accelerate.utils import gather, pad_across_processes

    state = meet(device)
    own = _own_batches(dataset, batch_size, state.process_index, state.num_processes)
    bar = tqdm(
        DataLoader(dataset, batch_sampler=own), desc=title, unit="batch", disable=not state.is_main_process
    )
    num_left = len(dataset)
    for images, batch in zip(own, bar, strict=True):
        check_finite(batch["pixel_values"], images[0])
        rows = [part.to(state.device) for part in run(batch)]
        # Only the last of all batches may be smaller, and what is behind it is nobody's.
        gathered = [part[:num_left].cpu() for part in gather(pad_across_processes(rows))]
        num_left -= len(gathered[0])
        yield gathered


def _own_batches(dataset: Sized, batch_size: int, index: int, count: int) -> list[list[int]]:
    """Return the rows of the batches that one of `count` processes runs: every `count`-th, equally many each.

    Where batches do not suffice, first ones come again after the last.
    """
    batches = list(BatchSampler(SequentialSampler(dataset), batch_size, drop_last=False))
    num_turns = -(-len(batches) // count)
    return [batches[number % len(batches)] for number in range(index, num_turns * count, count)]
