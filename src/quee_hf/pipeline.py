"""The image classification pipeline for QuEE models."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from PIL import Image
from transformers import AutoImageProcessor, ImageClassificationPipeline
from transformers.pipelines.pt_utils import PipelineIterator
from transformers.utils import ModelOutput

from quee_hf.certificates import fingerprint_of_processor
from quee_hf.checksums import check_processor
from quee_hf.errors import BadImageError
from quee_hf.execution.finite import are_finite
from quee_hf.images import fetch_rgb
from quee_hf.levels import Level
from quee_hf.routing_arguments import ROUTING_ARGUMENTS, resolve_route


class Routing(TypedDict):
    """How one image was classified."""

    exit_block: int  # block after which it left, counted from 1
    exit_index: int  # the same as an exit, counted from 0
    path: list[Level]  # level of each segment that was run, e.g. [8, 8, 6]
    cost: float  # relative to the dearest path, by the config's cost model
    error_probability: float | None  # predicted; None where no gate was asked


class QuEEImageClassificationPipeline(ImageClassificationPipeline):
    """Classify images, each at the cost that it needs.

    Once `quee_hf` is imported, `pipeline("image-classification", model=...)` makes one of these for a QuEE
    model. All that the stock pipeline does works as there, and the result is the same list of
    `{"label", "score"}`. With `return_routing=True` the result for each image is a dict: `"scores"`, that
    list, and `"routing"`, a `Routing`.

    The arguments below may be given when the pipeline is made, as its defaults, or when it is called, for
    that call. At most one of the first five may be given at once; one in a call replaces any that the
    pipeline was made with. Without any, the config's `cost_lambda` holds; if that is `None`, every image runs
    the whole network at its most exact level. One lambda serves a whole call, unless a `BudgetController`
    finds one for each batch; for one per image, call the model itself.

    Images are read differently in three ways. More than 8 bits per channel are scaled, not clipped. What
    cannot be read raises `BadImageError` with its name. An image processor that runs on torchvision is
    converted to its "pil" backend, as the pixels of the two differ slightly, which changes some routes;
    assign `image_processor` after the pipeline is made to use another.

    With a `batch_size` above 1, images of successive batches run together (`model.classify_stream`): results
    come in order, but later than those of their batch could.

    A model in training mode is put in evaluation mode, because in training mode nothing is routed.

    Args:
        cost_lambda: What a full path's cost is worth in error probability: 0 asks for accuracy at any cost,
            infinity for the cheapest path; or a `quee_hf.BudgetController`.
        target_cost: Highest mean cost, in [0, 1]: takes the lambda of the most accurate of the config's
            operating points that cost no more.
        target_latency_ms: Highest mean time of an image, in milliseconds: the same by times that
            `quee_hf.profile` measured.
        max_accuracy_drop: Accuracy, in [0, 1], that may be lost against the whole network: takes the lambda
            that is certified for it (`quee_hf.certify`).
        path: Levels, one per segment, that all images are to run; they leave at the exit after the last.
        engine: What runs the network from here on, as `model.set_engine` takes it; the model's own if not
            given.
        return_routing: Whether results tell how the image was classified.
        monitor: A `quee_hf.DriftMonitor` of the pipeline's model, which sees all images that can be read.

    Raises:
        ValueError: If these contradict each other, or one has no meaning; before any image is classified.
        NotReadyError: In a call, if lambda is given, but the model's gates are not trained.
        BadImageError: In a call, if an image cannot be read.

    Example:
        >>> from PIL import Image
        >>> from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline
        >>> from quee_hf import QuEEForImageClassification
        >>> vit = ViTForImageClassification(ViTConfig(hidden_size=32, num_hidden_layers=2, image_size=16,
        ...     num_attention_heads=2, intermediate_size=64, patch_size=8, num_labels=3))
        >>> model = QuEEForImageClassification.from_backbone(vit, exit_blocks=[1, 2], levels=["fp32"])
        >>> classify = pipeline("image-classification", model=model, device="cpu",
        ...     image_processor=ViTImageProcessorPil(size={"height": 16, "width": 16}))
        >>> classify(Image.new("RGB", (20, 10)), path=["fp32"], return_routing=True)["routing"]
        {'exit_block': 1, 'exit_index': 0, 'path': ['fp32'], 'cost': 0.5, 'error_probability': None}
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._max_accuracy_drop, self._certified_for = kwargs.get("max_accuracy_drop"), None
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        if (folder := getattr(self.model, "source_folder", None)) is not None:
            check_processor(folder)
        self.image_processor = _on_pil_backend(self.image_processor)
        if self._max_accuracy_drop is not None:
            self._certified_for = self._circumstances()

    def check_model_type(self, supported_models: list[str] | dict[str, Any]) -> None:
        """Accept the model: the list of stock models, which transformers compares with, cannot hold it."""

    def _sanitize_parameters(  # type: ignore[override]
        self, *, engine: str | None = None, return_routing: bool | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Check the arguments of a call, or the defaults, and say which step each is for."""
        route = {name: kwargs.pop(name, None) for name in ROUTING_ARGUMENTS}
        watched = {} if (monitor := kwargs.pop("monitor", None)) is None else {"monitor": monitor}
        if watched and monitor.model is not self.model:
            raise ValueError("The monitor is of another model than the pipeline's.")
        preprocess, _, postprocess = super()._sanitize_parameters(**kwargs)  # type: ignore[no-untyped-call]
        if return_routing is not None:
            postprocess["return_routing"] = bool(return_routing)
        before, model = self.model.engine, cast(Any, self.model)
        if engine is not None and engine != before:
            model.set_engine(engine)
        try:
            return preprocess, {**watched, **self._route(route)}, postprocess
        except (TypeError, ValueError):
            if model.engine != before:
                model.set_engine(before)
            raise

    def _route(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model's routing arguments, none for the defaults.

        A default that a certificate covers is looked up again where what it was made for has changed.
        """
        model = cast(Any, self.model)
        is_certified = self._certified_for is not None and all(value is None for value in given.values())
        if not is_certified or self._certified_for == self._circumstances():
            return resolve_route(model, self.image_processor, given)
        given = {"max_accuracy_drop": self._max_accuracy_drop}
        self._forward_params |= resolve_route(model, self.image_processor, given)
        self._certified_for = self._circumstances()
        return {}

    def _circumstances(self) -> tuple[Any, ...]:
        """Return what may change under a certified default, weights and settings but for."""
        config = self.model.config
        held = [dict(each) for each in config.certificates or ()]
        return self.model.engine, config.cost_model, held, fingerprint_of_processor(self.image_processor)

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:  # type: ignore[override]
        """Map an image to pixel values, `(1, channels, height, width)`.

        Args:
            image: A PIL image, a path, a URL or an image in base64; or pixels as NumPy array or tensor, which
                go to the image processor as they are.
            timeout: Of a download, in seconds; `None` waits forever.
        """
        if isinstance(image, (str, Path, Image.Image)):
            image = fetch_rgb(image, timeout)
        elif 0 in getattr(image, "shape", ()):
            raise BadImageError(f"An image of shape {tuple(image.shape)} has no pixels.")
        inputs = super().preprocess(image)  # type: ignore[no-untyped-call]
        if not are_finite(inputs["pixel_values"]).all():
            raise BadImageError("The pixel values of an image hold NaN or infinity.")
        return inputs

    def get_iterator(
        self, inputs: Any, num_workers: int, batch_size: int, *parameters: dict[str, Any]
    ) -> Any:
        """Iterate over the results for a list, a data set or a generator.

        Images of successive batches share the network's segments: see `model.classify_stream`.
        """
        results = super().get_iterator(inputs, num_workers, batch_size, *parameters)
        if batch_size > 1:
            options = {**parameters[1], "batch_size": batch_size}
            results.loader = _StreamIterator(results.loader.loader, self._forward_stream, options)
        return results

    def _forward_stream(self, batches: Iterable[Any], monitor: Any = None, **options: Any) -> Any:
        """Run the model on batches, for an iterator over the outputs of images."""
        return self._evaluated(monitor).classify_stream(batches, **options)

    def _forward(self, model_inputs: Any, monitor: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """Run the model on a batch."""
        return self._evaluated(monitor)(**model_inputs, **options)

    def _evaluated(self, monitor: Any) -> Any:
        """Return what runs the model, in evaluation mode."""
        if self.model.training:
            self.model.eval()
        return monitor or self.model

    def postprocess(  # type: ignore[override]
        self, model_outputs: ModelOutput, *, return_routing: bool = False, **stock_parameters: Any
    ) -> Any:
        """Turn the output for one image into its scores, and how it was classified if that is asked for."""
        scores = super().postprocess(model_outputs, **stock_parameters)  # type: ignore[no-untyped-call]
        return {"scores": scores, "routing": self._routing(model_outputs)} if return_routing else scores

    def _routing(self, model_outputs: ModelOutput) -> Routing:
        """Describe the route of one image in plain Python, fit for JSON."""
        config, exit_index = self.model.config, int(model_outputs["exit_index"][0])
        levels = model_outputs["path"][0, : exit_index + 1].tolist()
        error = float(model_outputs["error_probability"][0])
        return {
            "exit_block": config.exit_blocks[exit_index],
            "exit_index": exit_index,
            "path": [config.level_list[level] for level in levels],
            "cost": float(model_outputs["cost"][0]),
            "error_probability": None if math.isnan(error) else error,
        }


class _StreamIterator(PipelineIterator):
    """Iterates over what comes of all batches of a loader, not of one after the other."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.infer(self.loader, **self.params))


def _on_pil_backend(processor: Any) -> Any:
    """Return the image processor, made anew for Pillow if it runs on torchvision."""
    if getattr(processor, "backend", None) != "torchvision":
        return processor
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return AutoImageProcessor.from_pretrained(folder, backend="pil")
