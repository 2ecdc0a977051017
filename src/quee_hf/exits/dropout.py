"""`SharedDropout`: dropout that does not depend on how many processes share a batch."""

from torch import Tensor, nn
from torch.nn import functional

from quee_hf.processes import num_processes, process_index


class SharedDropout(nn.Dropout):
    """Leave out of each image what one process would leave out that had the images of all.

    Each of several processes draws for the images of all, and takes what falls to its own. They must have as
    many images each, in the order of processes, and random generators in the same state: so it is in a
    `transformers.Trainer`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map `(batch, ...)` to the same shape, with elements left out in training."""
        processes, rows = num_processes(), len(input)
        if processes == 1 or not self.training:
            return super().forward(input)
        factors = functional.dropout(input.new_ones(processes * rows, *input.shape[1:]), self.p)
        start = process_index() * rows
        return input * factors[start : start + rows]
