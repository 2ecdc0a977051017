"""`QuEEForImageClassification`: a frozen backbone in segments, with exits, gates and several levels."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, cast

from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from quee_hf.backbones.loading import open_classifier
from quee_hf.backbones.trunk import Trunk
from quee_hf.blueprint import path_latencies
from quee_hf.configuration import QuEEConfig
from quee_hf.errors import NotReadyError
from quee_hf.execution.answers import ForcedPath, answer, answer_stream, training_output
from quee_hf.execution.budget import BudgetController
from quee_hf.execution.drift_reference import make_drift_reference, reference_outputs
from quee_hf.execution.engines import REFERENCE, make_engine, make_sole_engine
from quee_hf.execution.engines.engine import Engine
from quee_hf.execution.engines.network import EngineNetwork
from quee_hf.execution.feed import Batch
from quee_hf.execution.network import Network
from quee_hf.execution.operating_points import DEFAULT_LAMBDAS, cheapest_within, measure_operating_points
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.execution.prefix_tree import tree_logits
from quee_hf.exits.heads import ExitHead
from quee_hf.levels import Level
from quee_hf.machine import warn_if_elsewhere
from quee_hf.outputs import QuEEImageClassifierOutput
from quee_hf.routable import L, RoutableModel


class QuEEForImageClassification(RoutableModel):
    """A trained image classifier that spends less on easy images.

    The backbone is frozen; exit heads (but the last, the backbone's own) and gates can be trained. Build one
    with `from_backbone`, load a saved one with `from_pretrained`.

    In evaluation mode images are routed. In training mode `forward` runs the whole network at its most exact
    and returns the loss that trains the exit heads; gates are trained by `quee_hf.GateTrainer`.

    Args:
        config: A complete config, with `backbone_config` and labels.

    Source:
        Regol et al. 2024 (QuEE, arXiv:2406.14404).
    """

    def __init__(self, config: QuEEConfig) -> None:
        super().__init__(config)
        self._engine: Engine | None = None
        self.register_load_state_dict_post_hook(self._release_engine)
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike[str] | PreTrainedModel,
        *,
        class_embeddings: Tensor | str | os.PathLike[str] | None = None,
        logit_scale: float | None = None,
        **config_fields: Any,
    ) -> Self:
        """Wrap a trained HF classifier; its exits and gates are new and untrained.

        Args:
            backbone: Hub id, directory, or a loaded ViT, DeiT, DINOv2, T2T-ViT or CLIP model.
            class_embeddings: CLIP only: `(classes, size)` text embeddings, or a safetensors file that holds
                them as `class_embeddings` and perhaps `logit_scale`.
            logit_scale: CLIP only: natural logarithm of what multiplies the cosine; `None` takes the
                file's, the model's, or ln 100, in this order.
            **config_fields: Fields of `QuEEConfig`: `exit_blocks`, `levels`, `head_type`, `id2label`, ...

        Raises:
            UnsupportedBackboneError: If the model's type is not supported or it has no trained head.
            IncompatibleCheckpointError: If its weights are damaged, not finite, or could run code.
            ValueError: If class embeddings are missing, superfluous or of the wrong shape.

        Example:
            >>> import torch
            >>> from transformers import ViTConfig, ViTForImageClassification
            >>> config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            ...     intermediate_size=64, image_size=16, patch_size=8, num_labels=3)
            >>> vit = ViTForImageClassification(config)
            >>> model = QuEEForImageClassification.from_backbone(vit, exit_blocks=[1, 2], levels=["fp32"])
            >>> model(torch.zeros(1, 3, 16, 16)).logits.shape
            torch.Size([1, 3])
        """
        source = open_classifier(backbone, class_embeddings, logit_scale)
        fields: dict[str, Any] = {
            "id2label": source.id2label,
            "logit_scale": source.logit_scale,
            "record": None if source.hub_id is None else {"base_model": source.hub_id},
            **config_fields,
        }
        names = {int(index): name for index, name in fields["id2label"].items()}
        fields |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
        num_classes = source.modules.head.out_features
        if source.class_embeddings is not None:
            num_classes = len(source.class_embeddings)
        if sorted(names) != list(range(num_classes)):
            raise ValueError(f"`id2label` must name classes 0 to {num_classes - 1}, got {len(names)} names.")
        model = cls(QuEEConfig(backbone_config=source.config, **fields))
        model.trunk.copy_from(source.modules)
        cast(ExitHead, model.heads[-1]).network.load_state_dict(source.modules.head.state_dict())
        if source.class_embeddings is not None:
            model.get_buffer("class_embeddings").copy_(source.class_embeddings)
        model.train(False)
        return model

    def replace_trunk(self, trunk: Trunk, levels: Sequence[Level]) -> None:
        """Take a trunk made for other levels; gates are new, untrained, and what was measured is forgotten.

        That includes times: costs that went by them are in BitOPs again.
        """
        config = self.config
        config.forget_profile()
        config.levels = list(levels)
        config.forget_measurements()
        self.trunk = trunk
        self._release_engine()
        self._renew_gates()

    def set_engine(self, name: str, *, keep_weights: bool = True) -> None:
        """Choose what runs the network in evaluation mode; training and `quee_hf.quantize` do not use it.

        Args:
            name: "torch": the model's own modules, which simulate integer levels; "torch_int8": PyTorch's
                integer kernels; "openvino" or "onnxruntime": those of an extra of this package; "auto":
                whichever of those installed is fastest with this model on this machine, which takes seconds
                to find out.
            keep_weights: Whether the model can do anything else afterwards. If not, the engine prepares at
                once what routing may choose, and what it then has is all that is left of the blocks: the
                model takes less memory, but cannot be saved, trained, moved or given another engine. Not for
                "torch".

        Raises:
            ValueError: If there is no such engine, or it cannot do without the weights.
            MissingExtraError: If it is not installed.
            NotReadyError: If the model is not quantized yet, and it is "auto" or weights are not kept; if it
                is in training mode, and they are not; or if they were not before.
        """
        self.trunk.check_weights()
        if keep_weights:
            self._engine = make_engine(name, self)
        else:
            self._release_engine()
            self._engine = make_sole_engine(name, self)

    @property
    def engine(self) -> str:
        """The name of what runs the network in evaluation mode."""
        return REFERENCE if self._engine is None else self._engine.name

    @property
    def network(self) -> Network:
        """What runs in evaluation mode: the model itself, or its engine with the model's router."""
        return self if self._engine is None else EngineNetwork(self, self._engine)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self.trunk.weights_at is not None:
            if fn(self.trunk.norm.weight) is self.trunk.norm.weight:
                return self  # where it is already, and as what
            self.trunk.check_weights()
        self._release_engine()
        return cast(Self, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; after training an engine is made anew."""
        if mode and not self.training:
            self.trunk.check_weights()
            self._release_engine()
        return cast(Self, super().train(mode))

    def _release_engine(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.release()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        cost_lambda: float | Tensor | BudgetController | None = None,
        path: Sequence[Level] | None = None,
        output_all_paths: bool = False,
    ) -> QuEEImageClassifierOutput:
        """Classify images.

        In training mode the last three arguments have no effect, and the loss is the scaled exit loss.

        Args:
            pixel_values: `(batch, channels, height, width)`.
            labels: `(batch,)`, int64; gives the output a loss.
            cost_lambda: What a full path's cost is worth in error probability: 0 asks for accuracy at any
                cost, infinity for the cheapest path. One number, one per image, `(batch,)`, or a
                `BudgetController`, which finds it. `None` takes the config's; if that is `None` too, every
                image runs the whole network at the most exact level.
            path: Levels, one per segment, that all images are to run; they leave at the exit after the last.
            output_all_paths: Whether to return every path's logits, too.

        Raises:
            ValueError: If an argument is malformed, or both `cost_lambda` and `path` are given.
            NotReadyError: If the model is not quantized, or its gates are not trained.
        """
        if pixel_values.ndim != 4:
            shape = tuple(pixel_values.shape)
            raise ValueError(f"`pixel_values` must be (batch, channels, height, width), got shape {shape}.")
        if self.training:
            return training_output(self, self.exact_level, self.config.num_exits, pixel_values, labels)
        output = answer(self.network, pixel_values, self.plan_route(cost_lambda, path))
        if output_all_paths:
            output.all_logits = tree_logits(self.network, pixel_values)
        if labels is not None:
            output.loss = functional.cross_entropy(cast(Tensor, output.logits), labels)
        return output

    def plan_route(self, cost_lambda: L | None, path: Sequence[Level] | None) -> L | float | ForcedPath:
        """Return what decides the path of each image; warn if times that decide were measured elsewhere."""
        route = super().plan_route(cost_lambda, path)
        is_by_time = not isinstance(route, ForcedPath) and self.config.cost_model == "latency"
        if is_by_time and (profile := self.config.profile) is not None:
            warn_if_elsewhere(profile, self.engine, self.device)
        return route

    def classify_stream(
        self,
        batches: Iterable[Batch],
        *,
        cost_lambda: float | Iterable[float] | BudgetController | None = None,
        path: Sequence[Level] | None = None,
        batch_size: int = 32,
    ) -> Iterator[QuEEImageClassifierOutput]:
        """Classify a data set, image by image, in less time than batch after batch; results are `forward`'s.

        Images of successive batches run together: where images have left, those of the next batches fill up.

        Args:
            batches: Tensors `(n, channels, height, width)`, of any n, on any device, or mappings with one as
                `pixel_values`. They are read one by one, as images are needed. Should that fail, the results
                of the images before come first, then the error.
            cost_lambda: As in `forward`; if one per image, in the order of images.
            path: As in `forward`.
            batch_size: Images that a segment runs on. Up to 17 times as many results wait for a slower one.

        Returns:
            An iterator: for each image in order a batch of one, on the CPU.

        Raises:
            TypeError: If `batches` is no iterable.
            ValueError: If another argument is malformed; both before anything is read.
            NotReadyError: As in `forward`, and in training mode.
            OutdatedError: By the iterator, once costs, levels, gates or classes change.
        """
        if self.training:
            raise NotReadyError("In training mode nothing is routed: call `model.eval()` first.")
        route: float | Iterable[float] | BudgetController | ForcedPath = self.plan_route(cost_lambda, path)
        return answer_stream(self.network, batches, route, batch_size, self.device)

    def fit_operating_points(
        self,
        validation: Dataset[Any] | PathOutputs,
        *,
        lambdas: Sequence[float] = DEFAULT_LAMBDAS,
        max_accuracy_drop: float = 0.01,
        batch_size: int = 64,
    ) -> list[dict[str, Any]]:
        """Measure what each lambda costs and how accurate it is, and keep the points in the config.

        The default `cost_lambda` becomes that of the cheapest point whose accuracy is at most
        `max_accuracy_drop` below the whole network's at its most exact level, or `None` if there is none.
        What a `quee_hf.DriftMonitor` compares images with is kept, too.

        Args:
            validation: Two or more images used for nothing else, or their collected outputs.
            lambdas: Values to measure.
            max_accuracy_drop: Accuracy, in [0, 1], that the default may lose on these images.
            batch_size: Images per batch.

        Returns:
            The points, as in `config.operating_points`.

        Raises:
            ValueError: If there are fewer than two images, or one has no answer.
            NotReadyError: If the gates are not trained.
        """
        self.check_gates_are_trained()
        outputs = reference_outputs(self, validation, batch_size, self.device)
        times = path_latencies(self.config, self.paths)
        measured = measure_operating_points(self, outputs, lambdas, times)
        full_error = outputs.is_wrong[:, self.router.tree.exact_nodes[-1]].double().mean()
        reference = dict(make_drift_reference(self, outputs, self.config.cost_model))
        self.config.forget_measurements()
        points = [{**point, "cost_model": self.config.cost_model} for point in measured]
        self.config.operating_points = points
        self.config.keep_record("drift_reference", reference)
        self.config.cost_lambda = cheapest_within(points, 1 - float(full_error) - max_accuracy_drop)
        return points
