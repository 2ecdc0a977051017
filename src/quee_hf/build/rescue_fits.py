"""`RegimeFits`: the heads and gates of one network of a rescue experiment, fitted or read from files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from quee_hf.build.files import cached_tensors
from quee_hf.build.rescue_features import BlockFeatures
from quee_hf.build.rescue_heads import HeadKind, head_logits, head_schedule, train_heads
from quee_hf.build.rescue_plan import Regime
from quee_hf.build.rescue_routes import (
    ENDINGS,
    NUM_SETTINGS,
    SHARES,
    Division,
    Routes,
    fit_routes,
    gate_schedule,
    routing_stand_in,
)
from quee_hf.build.rescue_setting import Setting
from quee_hf.build.roles import positions
from quee_hf.execution.path_outputs import PathOutputs
from quee_hf.modeling import QuEEForImageClassification

_LEARNING = ("train", "stopping")
_JUDGED = ("validation", "test")
_IS_RIGHT = "is_right"


@dataclass(frozen=True)
class RegimeFits:
    """What is fitted to one network.

    Args:
        setting: Of the experiment.
        regime: How the network is computed.
        network: The one in full precision: its config and class embeddings are those of all.
        features: What the network shows of every set of images.
        teachers: What the one in full precision returns for those to learn from, and for early stopping.
        output: Directory of the files.
    """

    setting: Setting
    regime: Regime
    network: QuEEForImageClassification
    features: Mapping[str, BlockFeatures]
    teachers: tuple[Tensor, Tensor]
    output: Path

    def own_logits(self, name: str) -> Tensor:
        """Return the logits of the network's own last head for a set of images, `(images, labels)`."""
        return self.network.as_logits(self.features[name].outputs)

    def own_is_right(self) -> Tensor:
        """Return whether the whole network is right on each test image, `(images,)` bool."""
        right: Tensor = self.own_logits("test").argmax(dim=-1) == self.features["test"].labels
        return right

    def heads_are_right(self, kind: HeadKind, seed: int) -> Tensor:
        """Return whether the head of each exit is right on each test image, `(exits, images)` bool."""
        return self._heads(kind, seed)[_IS_RIGHT]

    def routes(self, kind: HeadKind, seed: int, exits: tuple[int, ...]) -> dict[str, Routes]:
        """Return where gates send the test images, for each of `ENDINGS`.

        Args:
            kind: Of the heads.
            seed: Of heads, gates and the division of the validation images.
            exits: Blocks after which images may leave, the last block among them.
        """
        named = "-".join(map(str, exits))
        path = self.output / f"routes-{self.regime.name}-{kind.name}-{named}-{seed}.safetensors"
        gates = (self.setting.validation.fingerprint, self.setting.plan.gate_epochs, exits, NUM_SETTINGS)
        key = f"{self._head_key(kind, seed)} {gates}"

        def make() -> dict[str, Tensor]:
            found = self._fit_routes(kind, seed, exits)
            return {f"{end}.{name}": part for end in found for name, part in found[end]._asdict().items()}

        tensors = cached_tensors(path, key, make)
        return {end: Routes(*(tensors[f"{end}.{name}"] for name in Routes._fields)) for end in ENDINGS}

    def _fit_routes(self, kind: HeadKind, seed: int, exits: tuple[int, ...]) -> dict[str, Routes]:
        chosen = [self.setting.exits.index(block) for block in exits]
        outputs = dict(zip(_JUDGED, self._path_outputs(kind, seed, chosen), strict=True))
        endings = {
            "own": tuple(self._end_in_own(outputs[name], name) for name in _JUDGED),
            "same": tuple(outputs.values()),
        }
        model = routing_stand_in(self.network, exits)
        pairs = {ending: (pair[0], pair[1]) for ending, pair in endings.items()}
        return fit_routes(
            model, pairs, self._division(seed), gate_schedule(self.setting.plan.gate_epochs, seed)
        )

    def _path_outputs(self, kind: HeadKind, seed: int, chosen: list[int]) -> Iterator[PathOutputs]:
        heads = self._heads(kind, seed)
        for name in _JUDGED:
            seen, logits = self.features[name], self._logits(kind, heads, name)
            yield PathOutputs(logits[:, chosen], seen.variance[:, chosen], seen.labels)

    def _end_in_own(self, outputs: PathOutputs, name: str) -> PathOutputs:
        """Return outputs whose last exit is the network's own head."""
        last = self.own_logits(name)[:, None]
        return replace(outputs, logits=torch.cat([outputs.logits[:, :-1], last], dim=1))

    def _division(self, seed: int) -> Division:
        images = self.setting.validation
        return Division(*(positions(images, part) for part in images.split(SHARES, seed)))

    def _logits(self, kind: HeadKind, heads: dict[str, Tensor], name: str) -> Tensor:
        return head_logits(self.network, kind, heads, self.features[name].read_by(kind.head))

    def _heads(self, kind: HeadKind, seed: int) -> dict[str, Tensor]:
        """Return the heads' tensors, and on which test images they are right."""
        path = self.output / f"heads-{self.regime.name}-{kind.name}-{seed}.safetensors"

        def make() -> dict[str, Tensor]:
            learning, stopping = (self.features[name] for name in _LEARNING)
            schedule = head_schedule(self.setting.plan.head_epochs, seed)
            heads = train_heads(self.network, (learning, stopping), self.teachers, kind, schedule)
            found = self._logits(kind, heads, "test").argmax(dim=-1)
            return {**heads, _IS_RIGHT: (found == self.features["test"].labels[:, None]).T}

        return cached_tensors(path, self._head_key(kind, seed), make)

    def _head_key(self, kind: HeadKind, seed: int) -> str:
        images = self.setting.image_sets
        learnt_from = " ".join(images[name].fingerprint for name in _LEARNING)
        facts = f"{self.setting.fingerprint} {self.regime.name} {learnt_from} {images['test'].fingerprint}"
        return f"{facts} {self.setting.plan.head_epochs} {kind.name} {seed}"
