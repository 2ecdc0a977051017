"""`RoutableModel`: a frozen backbone in segments, exits after them, and gates; what execution asks of it."""

import copy
import os
from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from quee_hf.backbones import get_family
from quee_hf.backbones.block import LevelSet
from quee_hf.backbones.class_embeddings import check_class_names, choose_class_embeddings
from quee_hf.backbones.trunk import Trunk
from quee_hf.blueprint import (
    check_logit_scale,
    check_runnable,
    gate_spec,
    head_spec,
    path_tree,
    segment_costs,
)
from quee_hf.configuration import COST_MODELS, QuEEConfig
from quee_hf.errors import NotReadyError
from quee_hf.execution.answers import ForcedPath, path_of_levels
from quee_hf.execution.budget import BudgetController
from quee_hf.execution.network import Step, advance_by_parts, run_path_by_parts
from quee_hf.exits.heads import HEADS, ExitHead, cosine_logits, linear_head
from quee_hf.exits.reading import ExitReading, spatial_variance
from quee_hf.gates import GATES, ErrorGates, Gates
from quee_hf.gates.features import GATE_FEATURES
from quee_hf.levels import Level
from quee_hf.paths import Path
from quee_hf.pretrained import QuEEPreTrainedModel
from quee_hf.routing.costs import path_cost, path_costs
from quee_hf.routing.decisions import Decision, decide_by_threshold, enter
from quee_hf.routing.dominance import worth_choosing
from quee_hf.routing.policy import Floats, Indices
from quee_hf.routing.router import Router

L = TypeVar("L")  # a lambda, or one per image


class RoutableModel(QuEEPreTrainedModel):
    """The parts of a model, and a `quee_hf.execution.network.Network` of them.

    Args:
        config: A complete config, with `backbone_config` and labels.

    Raises:
        ValueError: If a CLIP model has no logit scale, or another has one.
    """

    config: QuEEConfig
    gates: Gates

    def __init__(self, config: QuEEConfig) -> None:
        check_logit_scale(config)
        super().__init__(config)
        level_set = LevelSet(config.level_list, config.scheme)
        self.trunk = Trunk(config.backbone, level_set)
        spec = head_spec(config)
        heads = [HEADS[config.head_type](spec) for _ in range(config.num_exits - 1)]
        self.heads = nn.ModuleList([*heads, linear_head(spec)])
        if get_family(config.backbone).is_contrastive:
            self.register_buffer("class_embeddings", torch.zeros(config.num_classes, spec.num_outputs))
        self._make_gates()
        self.freeze_backbone()

    def _make_gates(self) -> None:
        self._tree = path_tree(self.config)
        self.gates = GATES[self.config.gate_type](gate_spec(self.config, self._tree))
        self._costs: tuple[object, list[list[float]], Router] | None = None

    def _renew_gates(self) -> None:
        """Make new, untrained gates."""
        self.config.trained_parts = [part for part in self.config.trained_parts if part != "gates"]
        self._make_gates()
        nn.Module.to(self.gates, self.device)
        self.train(self.training)

    def _release_engine(self, *_: object) -> None:
        """Forget what an engine has prepared, if one runs the model."""

    def set_classes(
        self,
        names: Sequence[str],
        class_embeddings: Tensor | str | os.PathLike[str] | None = None,
        *,
        keep_gates: bool = True,
    ) -> None:
        """Compare images with other classes from now on; for CLIP models only.

        The network and its exit heads stay as they are: they make embeddings, which know of no classes. So do
        LRA-EE's gates if what they see depends neither on which classes there are nor on how many: with
        `gate_features` "spatial" always, with "confidence" and "history" from three classes on. QuEE's gates
        predict errors among the classes that they were trained with, and cannot stay. Operating points,
        certificates and the default lambda are forgotten: measure them anew. If the embeddings are
        the present ones, classes are renamed, and nothing else changes.

        Args:
            names: Of the classes, at least two, all different.
            class_embeddings: `(classes, size)` text embeddings in the order of the names, or a safetensors
                file that holds them as `class_embeddings`; a logit scale there is not used. `None` if all
                names are among the present ones: a selection, or another order.
            keep_gates: Whether trained gates stay; if not, they are new and untrained.

        Raises:
            ValueError: If it is no CLIP model, names or embeddings are malformed, or trained gates cannot
                stay. The model is then what it was.
            NotReadyError: If an engine alone has the weights.
        """
        config, names = self.config, check_class_names(names)
        if config.logit_scale is None:
            raise ValueError(
                "Only CLIP models can be given other classes; this one has a classifier, trained for its"
                f" {config.num_classes} classes."
            )
        self.trunk.check_weights()
        present = self.get_buffer("class_embeddings")
        embeddings = choose_class_embeddings(names, class_embeddings, config.class_names, present)
        is_other = not keep_gates or not torch.equal(embeddings, present)
        keeps = keep_gates and "gates" in config.trained_parts
        if is_other and keeps and not self.gates.suit_other_classes(len(names)):
            raise ValueError(
                f"Gates of type {config.gate_type!r} that see {config.gate_features!r} know the"
                f" {config.num_classes} classes that they were trained with, and cannot decide for"
                f" {len(names)} others. Give `keep_gates=False` for new ones, and train them with"
                " `quee_hf.GateTrainer` on images of the new classes."
            )
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        if not is_other:
            return
        self.register_buffer("class_embeddings", embeddings)
        self._costs = None  # as are the router's: a stream that is running notices
        config.forget_measurements()
        self._release_engine()
        if keeps:
            self.gates.num_labels = len(names)
        else:
            self._renew_gates()

    def freeze_backbone(self) -> None:
        """Make the exit heads but the last, and the gates, the only trainable parts."""
        self.requires_grad_(False)
        self.heads[:-1].requires_grad_(True)
        self.gates.requires_grad_(True)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths that gates score, as level indices, shortest first."""
        return self._tree.paths

    @property
    def level_list(self) -> list[Level]:
        """The levels, from most to least exact."""
        return self.config.level_list

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return self.config.num_classes

    @property
    def exact_level(self) -> Level:
        """The most exact level that the model can run: "fp32" while it has float weights, else the first."""
        return "fp32" if self.config.quantization is None else self.level_list[0]

    @property
    def router(self) -> Router:
        """The paths with their costs; made anew when what the config says of costs changes."""
        return self._current_costs()[1]

    @property
    def cost_table(self) -> list[list[float]]:
        """The cost of each segment at each level, in the cost model's unit."""
        return self._current_costs()[0]

    def set_cost_model(self, cost_model: str) -> None:
        """Choose what a path costs; at other costs, operating points and the default lambda are forgotten.

        Monitors, controllers and streams of the costs before raise `OutdatedError` from then on.

        Args:
            cost_model: "bitops", "flops", or "latency": times measured by `quee_hf.profile`, or any
                `config.cost_table`. By time, paths that are neither faster nor more exact are not chosen.

        Raises:
            ValueError: If there is no such cost model.
            NotReadyError: If there are no times, or an engine has taken the weights over.
        """
        config = self.config
        if cost_model not in COST_MODELS:
            raise ValueError(f"`cost_model` must be one of {list(COST_MODELS)}, got {cost_model!r}.")
        if cost_model == "latency" and config.cost_table is None:
            raise NotReadyError("No times are known: run `quee profile`, or `quee_hf.profile(model)`.")
        if cost_model != config.cost_model:
            self.trunk.check_weights()  # other paths will be chosen
            config.cost_model = cost_model
            config.forget_measurements()

    def _current_costs(self) -> tuple[list[list[float]], Router]:
        config = self.config
        times = config.cost_table if config.cost_model == "latency" else None
        key = (config.cost_model, times, config.quantization)
        if self._costs is None or self._costs[0] != key:
            key = copy.deepcopy(key)  # fields may be changed in place
            table = segment_costs(config)
            costs, choices = path_costs(self.paths, table), None
            if config.cost_model == "latency":  # other costs fall with every bit, or with none
                choices = worth_choosing(self._tree, [path_cost(path, table) for path in self.paths])
            self._costs = (key, table, Router(self._tree, costs, choices))
        return self._costs[1:]

    def plan_route(self, cost_lambda: L | None, path: Sequence[Level] | None) -> L | float | ForcedPath:
        """Return what decides the path of each image: lambda, or one path for all.

        Args:
            cost_lambda: `None`, if `path` is, too, takes the config's.
            path: Levels, one per segment; `None` stands for the most exact to the end, if no lambda is given
                or in the config.

        Raises:
            ValueError: If both are given, or the path does not exist.
            OutdatedError: If a budget is of other costs.
            NotReadyError: If there is a lambda, but gates are not trained.
        """
        if cost_lambda is not None and path is not None:
            raise ValueError("Give `cost_lambda` or `path`, not both.")
        default = self.config.cost_lambda if path is None else None
        route = default if cost_lambda is None else cost_lambda
        if route is not None:
            self.check_gates_are_trained()
            if isinstance(route, BudgetController):
                route.check_costs(self)
            return route
        levels = path_of_levels(path, self.level_list, self.config.num_exits)
        return ForcedPath(levels, path_cost(levels, self.cost_table), self.config.num_exits)

    def check_gates_are_trained(self) -> None:
        """Raise `NotReadyError` if they are not."""
        if "gates" not in self.config.trained_parts:
            raise NotReadyError("The gates are not trained: use `quee_hf.GateTrainer`, or force a `path`.")

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to tokens, `(batch, tokens, hidden)`."""
        return self.trunk.embed(pixel_values)

    def run_segment(self, segment: int, level: Level, hidden: Tensor) -> Tensor:
        """Run the blocks of one segment, counted from 0, at a level."""
        check_runnable(self.config, level)
        start, stop = self.config.segments[segment]
        return self.trunk.run_blocks(hidden, start, stop, level)

    def run_path(self, pixel_values: Tensor, path: Path) -> Tensor:
        """Run all images along one path, of indices of levels, and return the logits at its end."""
        return run_path_by_parts(self, pixel_values, path)

    def select_exit(self, exit_index: int, hidden: Tensor) -> Tensor:
        """Reduce tokens to what the head of an exit, counted from 0, reads."""
        return cast(ExitHead, self.heads[exit_index]).select(self.trunk.norm(hidden))

    def as_logits(self, outputs: Tensor) -> Tensor:
        """Map what a head returns, logits or an embedding, to class logits, `(batch, labels)`, float32."""
        if self.config.logit_scale is None:
            return outputs.float()
        return cosine_logits(outputs, self.get_buffer("class_embeddings"), self.config.logit_scale)

    def read_exit(self, exit_index: int, hidden: Tensor) -> ExitReading:
        """Class logits at an exit, and the spatial variance of the tokens there."""
        tokens, head = self.trunk.norm(hidden), cast(ExitHead, self.heads[exit_index])
        variance = spatial_variance(tokens, head.num_prefix_tokens)
        return ExitReading(self.as_logits(head(head.select(tokens))), variance)

    def summarize(self, reading: ExitReading) -> Tensor:
        """Reduce what an exit says to what gates keep of it: `(..., summary)`, float32."""
        kind = GATE_FEATURES[str(self.config.gate_features)]
        return kind.summarize(reading.logits.softmax(dim=-1), reading.variance)

    def score(self, depth: int, seen: Tensor) -> Tensor:
        """What the gate after `depth` segments makes of what `summarize` gave, `(batch, depth, summary)`."""
        return self.gates.logits(depth, seen).sigmoid()

    def advance(self, segment: int, level: Level, hidden: Tensor, seen: Tensor | None) -> Step:
        """Run a segment, read the exit after it, and ask the gate there; `seen` is of the exits before."""
        return advance_by_parts(self, segment, level, hidden, seen)

    def decide(self, depth: int, node: Indices, scores: Floats, cost_lambda: Floats) -> Decision:
        """Take one step for each image: leave the network at its node, or go on at some level."""
        gates, router = self.gates, self.router
        if isinstance(gates, ErrorGates):
            return router.decide(depth, node, scores, cost_lambda)
        if not depth:
            return enter(router, node)
        threshold = gates.threshold(depth, cost_lambda)
        return decide_by_threshold(router, node, scores, threshold)
