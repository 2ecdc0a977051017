"""`DriftMonitor`: whether the images of a stream are like those that a model was validated on."""

import copy
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quee_hf.diagnostics.agreement import Agreement, judge_agreement
from quee_hf.diagnostics.shift import Shift, measure_shift
from quee_hf.errors import NotReadyError, OutdatedError
from quee_hf.execution.drift_reference import QUANTITIES, bin_images
from quee_hf.execution.feed import Batch
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.outputs import QuEEImageClassifierOutput
from quee_hf.values import is_whole

logger = logging.getLogger(__name__)


class DriftReport(TypedDict):
    """What a monitor has found, in the last window that is complete; nothing before the first is."""

    is_drifted: bool | None
    remarkable: list[str]  # of "exit", "error", "confidence" and "agreement", what differs
    shifts: dict[str, Shift]
    agreement: Agreement | None  # at any time, once an image was tried
    num_images: int  # that were compared, or will be when their window is complete
    num_unanswered: int  # left out of all the rest: their pixels or outputs hold NaN or infinity
    num_windows: int
    num_drifted: int  # of these
    images_needed: int  # until the next window is complete


class DriftMonitor:
    """Runs a model, and compares where images leave, and how sure it is of them, with validation images.

    Call it, or its `classify_stream`, in place of the model's, or give it to a pipeline as `monitor`. Every
    `window` images it compares three quantities with what the reference in the model's config lets expect:
    the exit, the predicted error and the confidence (largest probability) of each image, by population
    stability index and Kolmogorov-Smirnov distance. Where images leave depends on lambda, so what is expected
    is put together for the very lambdas that the window's images had: that lambda moves is no drift.

    A window without drift is reported with a probability of at most `false_alarm_rate`, all quantities
    together, if images are independent of each other: successive frames of a film are not, and classes that
    come one after the other are a drift.

    Images without an answer, whose pixels or outputs hold NaN or infinity, are left out and counted by
    themselves; the first is logged.

    Memory does not grow with the stream: a monitor keeps counts of a window, and the outcomes of at most
    `window` images that were tried at full depth. It is for one thread.

    Args:
        model: With a drift reference in its config.
        window: Images to compare at once, and before it says anything. A shift of a fifth of the images is
            noticed with some hundred, one of a twentieth takes thousands.
        false_alarm_rate: Of a window, in (0, 1).
        shadow_share: Of images that also run through the whole network at its most exact level, drawn at
            random, to see whether their classes agree; each costs what that costs, which no budget counts.
        seed: Of what is drawn.

    Raises:
        ValueError: If an argument has no meaning.
        NotReadyError: If the model has no drift reference.
    """

    def __init__(
        self,
        model: QuEEForImageClassification,
        *,
        window: int = 500,
        false_alarm_rate: float = 0.01,
        shadow_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not is_whole(window, 1):
            raise ValueError(f"`window` must be a whole number from 1 on, got {window!r}.")
        if not 0 < false_alarm_rate < 1:
            raise ValueError(f"`false_alarm_rate` must be above 0 and below 1, got {false_alarm_rate}.")
        if not 0 <= shadow_share <= 1:
            raise ValueError(f"`shadow_share` must be from 0 to 1, got {shadow_share}.")
        reference = (model.config.record or {}).get("drift_reference")
        if reference is None:
            raise NotReadyError(
                "The model has no drift reference: run `model.fit_operating_points(validation)` or"
                " `quee_hf.record_drift_reference(model, validation)`."
            )
        self.model, self._reference = model, reference
        self._costs = copy.deepcopy(self._costs_now())
        self._window, self._level, self._share = window, false_alarm_rate, shadow_share
        self._random = np.random.default_rng(seed)
        self._expected = {
            name: np.array([row.split() for row in reference["counts"][name]], float) for name in QUANTITIES
        }
        self._tried: deque[tuple[bool, float]] = deque(maxlen=window)  # whether it differs, and how probable
        self._num_tried_since = 0  # the last window that differed
        self._num_images = self._num_unanswered = self._num_windows = self._num_drifted = 0
        self._shifts: dict[str, Shift] = {}
        self._remarkable: list[str] = []
        self._start_window()

    def __call__(self, pixel_values: Tensor, **options: Any) -> QuEEImageClassifierOutput:
        """Classify images as the model does, with the same options, and look at how."""
        self._check_current()
        output: QuEEImageClassifierOutput = self.model(pixel_values, **options)
        chosen = self._random.random(len(pixel_values)) < self._share
        self.observe(output, pixel_values[torch.from_numpy(chosen).to(pixel_values.device)], chosen)
        return output

    def classify_stream(
        self, batches: Iterable[Batch], **options: Any
    ) -> Iterator[QuEEImageClassifierOutput]:
        """Classify a data set as the model does, with the same options, and look at how."""
        if isinstance(batches, (Tensor, Mapping)):
            return self.model.classify_stream(batches, **options)  # which refuses them
        self._check_current()
        # Of each image that is inside: its pixels, or none if it is not tried.
        waiting: deque[Tensor] = deque()

        def noted() -> Iterator[Batch]:
            for batch in batches:
                pixels = batch["pixel_values"] if isinstance(batch, Mapping) else batch
                for row in range(len(pixels) if isinstance(pixels, Tensor) else 0):  # others are refused
                    is_chosen = self._share and self._random.random() < self._share
                    waiting.append(pixels[row : row + int(bool(is_chosen))].clone())
                yield batch

        return self._observed(self.model.classify_stream(noted(), **options), waiting)

    def _observed(
        self, outputs: Iterator[QuEEImageClassifierOutput], waiting: deque[Tensor]
    ) -> Iterator[QuEEImageClassifierOutput]:
        for output in outputs:
            pixels = waiting.popleft()
            self.observe(output, pixels, np.full(1, len(pixels) > 0))
            yield output

    def observe(
        self,
        output: QuEEImageClassifierOutput,
        shadowed: Tensor | None = None,
        chosen: NDArray[np.bool_] | None = None,
    ) -> None:
        """Look at images that the model has classified.

        Those that were sent along one path do not count. Those without an answer, whose pixels or outputs
        hold NaN or infinity, are counted by themselves: what routing makes of them says nothing of others.

        Args:
            output: Of the model.
            shadowed: Pixels of those to be tried at full depth.
            chosen: `(batch,)`, which they are.

        Raises:
            ValueError: If the output is of training mode.
            OutdatedError: If the model is not what the monitor was made for any more.
        """
        self._check_current()
        if output.cost_lambda is None:
            raise ValueError("In training mode nothing is routed: call `model.eval()` first.")
        assert output.logits is not None
        assert output.error_probability is not None
        lambdas = _host(output.cost_lambda)
        routed = ~np.isnan(lambdas)
        counted = routed & _host(output.logits.isfinite().all(dim=1))
        self._count_unanswered(int((routed & ~counted).sum()))
        if shadowed is not None and chosen is not None and (counted & chosen).any():
            self._try(output, shadowed, counted & chosen, chosen)
        exits, edges = _host(output.exit_index), self._reference["edges"]
        bins = bin_images(exits, output.error_probability, output.logits, edges)
        rows = {name: each[counted] for name, each in bins.items()}
        weights, start = self._weights(lambdas[counted]), 0
        while start < len(weights):
            stop = min(len(weights), start + self._window - self._num_in_window)
            self._count(weights[start:stop], {name: each[start:stop] for name, each in rows.items()})
            start = stop

    def report(self) -> DriftReport:
        """Say what was found."""
        return {
            "is_drifted": bool(self._remarkable) if self._num_windows else None,
            "remarkable": list(self._remarkable),
            "shifts": dict(self._shifts),
            "agreement": judge_agreement(self._tried, self._reference["num_images"]),
            "num_images": self._num_images,
            "num_unanswered": self._num_unanswered,
            "num_windows": self._num_windows,
            "num_drifted": self._num_drifted,
            "images_needed": self._window - self._num_in_window,
        }

    def _costs_now(self) -> tuple[str, list[list[float]]]:
        return self.model.config.cost_model, self.model.cost_table

    def _check_current(self) -> None:
        """Raise `OutdatedError` if the model is not what the monitor was made for any more."""
        found = (self.model.config.record or {}).get("drift_reference")
        is_same = found is self._reference or found == self._reference
        if not is_same or self._costs_now() != self._costs:
            raise OutdatedError(
                "The model's costs, levels, gates, classes or drift reference are others than when the"
                " monitor was made: record a reference with `model.fit_operating_points(validation)` or"
                " `quee_hf.record_drift_reference(model, validation)`, and make another monitor."
            )

    def _start_window(self) -> None:
        self._num_in_window = 0
        self._weight = np.zeros(len(self._reference["cost_lambdas"]))
        self._found = {name: np.zeros(each.shape[1]) for name, each in self._expected.items()}

    def _weights(self, lambdas: NDArray[Any]) -> NDArray[np.float64]:
        """Return how much each of the reference's lambdas stands for each image's, `(images, lambdas)`."""
        known = self._reference["cost_lambdas"]
        place = np.interp(lambdas, known, np.arange(len(known)))
        weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(len(known))))
        return weights

    def _count_unanswered(self, count: int) -> None:
        if count and not self._num_unanswered:
            logger.warning(
                f"{count} of the images have no answer: their pixels or outputs hold NaN or infinity. Such"
                " images are left out of what is compared; `report()` says how many there are."
            )
        self._num_unanswered += count

    def _count(self, weights: NDArray[np.float64], bins: Mapping[str, NDArray[Any]]) -> None:
        self._num_images += len(weights)
        self._num_in_window += len(weights)
        self._weight += weights.sum(axis=0)
        for name, each in bins.items():
            self._found[name] += np.bincount(each, minlength=len(self._found[name]))
        if self._num_in_window == self._window:
            self._judge()
            self._start_window()

    def _judge(self) -> None:
        """Compare a window with the reference."""
        shares = self._weight / self._window
        self._shifts = {
            name: measure_shift(shares @ self._expected[name], self._found[name], self._random)
            for name in QUANTITIES
        }
        p_values = {name: shift.p_value for name, shift in self._shifts.items()}
        # What was tried in a window that differed says nothing of those after it.
        recent = list(self._tried)[-self._num_tried_since :] if self._num_tried_since else []
        agreement = judge_agreement(recent, self._reference["num_images"])
        if agreement is not None:
            p_values["agreement"] = agreement["p_value"]
        self._remarkable = [name for name, p in p_values.items() if p <= self._level / len(p_values)]
        self._num_windows += 1
        self._num_drifted += bool(self._remarkable)
        if self._remarkable:
            what = ", ".join(self._remarkable)
            logger.warning(f"The last {self._window} images differ from those of validation in: {what}.")
            self._num_tried_since = 0

    def _try(
        self,
        output: QuEEImageClassifierOutput,
        shadowed: Tensor,
        wanted: NDArray[np.bool_],
        chosen: NDArray[np.bool_],
    ) -> None:
        """Run some images through the whole network, and compare their classes."""
        path = [self.model.level_list[0]] * self.model.config.num_exits
        with torch.inference_mode():
            rows = torch.from_numpy(wanted[chosen]).to(shadowed.device)
            whole = self.model(shadowed[rows].to(self.model.device), path=path)
        classes = _host(whole.logits.argmax(dim=-1))
        differs = _host(output.logits.argmax(dim=-1))[wanted] != classes  # type: ignore[union-attr]
        shares = np.array(self._reference["differing"]) / self._reference["num_images"]
        expected = self._weights(_host(output.cost_lambda)[wanted]) @ shares
        self._tried.extend(zip(differs.tolist(), expected.tolist(), strict=True))
        self._num_tried_since += len(differs)


def _host(values: Tensor | None) -> NDArray[Any]:
    assert values is not None
    found: NDArray[Any] = values.numpy(force=True)
    return found
