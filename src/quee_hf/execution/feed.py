"""`Feed`: the images of a data set in batches of one size, each image with its lambda."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice, repeat

import numpy as np
import torch
from torch import Tensor

from quee_hf.routing.policy import Floats, cost_lambda_per_sample

# Images, `(n, channels, height, width)`, alone or as `pixel_values` beside what is not read.
Batch = Tensor | Mapping[str, Tensor]


class Feed:
    """Makes batches of one size, the last perhaps smaller, of batches of any sizes; to be iterated once.

    The next of the batches given is read when its images are needed, not before. An error while it is read
    ends the feed: `raise_failure` raises it, when the images before it are through.

    Args:
        batches: Images, all of one size.
        cost_lambda: At least 0; one number, or one per image.
        batch_size: Images per batch.
        device: Where batches are moved, one by one; `None` leaves them where they are.

    Raises:
        TypeError: If `batches` cannot be iterated, or is one tensor or mapping.
        ValueError: If another argument is malformed.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        cost_lambda: float | Iterable[float],
        batch_size: int,
        device: torch.device | None = None,
    ) -> None:
        if isinstance(batches, (Tensor, Mapping)):
            raise TypeError(
                f"`batches` must hold batches, got one {type(batches).__name__}: put it in a list."
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` must be a whole number from 1 on, got {batch_size!r}.")
        self.batch_size = batch_size
        self._lambdas = _one_by_one(cost_lambda)
        self._batches = iter(batches)
        self._device = device
        self._image_shape: torch.Size | None = None
        self._failure: Exception | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Floats]]:
        """Yield `(batch_size, channels, height, width)` and `(batch_size,)`."""
        parts: list[tuple[Tensor, Floats]] = []
        count = 0
        while (given := self._read()) is not None:
            images, lambdas = given
            start = 0
            while start < len(images):
                stop = min(start + self.batch_size - count, len(images))
                parts.append((images[start:stop], lambdas[start:stop]))
                count += stop - start
                start = stop
                if count == self.batch_size:
                    yield self._join(parts)
                    parts, count = [], 0
        if parts:
            yield self._join(parts)

    def raise_failure(self) -> None:
        """Raise what ended the feed before its time, if anything did."""
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # its traceback holds this frame, which would hold it in turn

    def _read(self) -> tuple[Tensor, Floats] | None:
        """Return the next images given and their lambdas; `None` at the end, or where reading fails."""
        try:
            images = self._checked(next(self._batches))
            lambdas = np.fromiter(islice(self._lambdas, len(images)), np.float32)
            if len(lambdas) < len(images):
                raise ValueError("`cost_lambda` must be one number or one per image; there are more images.")
            return images, cost_lambda_per_sample(lambdas, len(images))
        except StopIteration:
            return None
        # Whatever it is, it is for the caller, after the results of the images that came before.
        except Exception as error:
            self._failure = error
            return None

    def _checked(self, batch: Batch) -> Tensor:
        """Return the images of a batch."""
        images = batch["pixel_values"] if isinstance(batch, Mapping) else batch
        if not isinstance(images, Tensor) or images.ndim != 4:
            found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"A batch must be a tensor (n, channels, height, width), got {found}.")
        if self._image_shape is None:
            self._image_shape = images.shape[1:]
        if images.shape[1:] != self._image_shape:
            first, found = tuple(self._image_shape), tuple(images.shape[1:])
            raise ValueError(f"Images must all be of one size, got {found} after {first}.")
        return images

    def _join(self, parts: list[tuple[Tensor, Floats]]) -> tuple[Tensor, Floats]:
        images, lambdas = zip(*parts, strict=True)
        joined = images[0] if len(images) == 1 else torch.cat(images)
        return joined if self._device is None else joined.to(self._device), np.concatenate(lambdas)


def _one_by_one(cost_lambda: float | Iterable[float]) -> Iterator[float]:
    """Return a lambda for each image; what is known of them now is checked now."""
    if isinstance(cost_lambda, (Tensor, np.ndarray)):
        cost_lambda = cost_lambda.tolist()
    if isinstance(cost_lambda, Sized):
        cost_lambda_per_sample(np.asarray(cost_lambda), len(cost_lambda))
    if isinstance(cost_lambda, Iterable):
        return iter(cost_lambda)
    cost_lambda_per_sample(cost_lambda, 1)
    return repeat(float(cost_lambda))
