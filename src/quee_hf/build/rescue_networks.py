"""`Networks`: a classifier in full precision and quantized in several ways, and what each shows of images."""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from quee_hf.build.files import cached_tensors, write_json
from quee_hf.build.rebuild import move
from quee_hf.build.rescue_features import BlockFeatures, collect_block_features
from quee_hf.build.rescue_plan import Regime
from quee_hf.build.rescue_setting import Setting
from quee_hf.diagnostics.noise_profile import measure_noise
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.quantize import quantize
from quee_hf.saved_config import DAMAGE

NUM_NOISE_IMAGES = 256
_SEED = 0  # of quantization, and of what is random in it


class Networks:
    """The networks of an experiment, made when they are needed; what they show is kept in files.

    Args:
        setting: Of the experiment.
        output: Directory of the files.
    """

    def __init__(self, setting: Setting, output: Path) -> None:
        self._setting, self._output = setting, output
        self._quantized: tuple[Regime, QuEEForImageClassification] | None = None

    @cached_property
    def exact(self) -> QuEEForImageClassification:
        """The classifier in full precision, with untrained heads."""
        return self._load("fp32")

    def profile(self, regime: Regime) -> dict[str, Any]:
        """Return the noise profile of a quantized network, as `measure_noise` has it."""
        path, setting = self._output / f"noise-{regime.name}.json", self._setting
        images = setting.parts["head early stopping"].spread(NUM_NOISE_IMAGES)
        key = f"{setting.fingerprint} {images.fingerprint}"
        with suppress(OSError, *DAMAGE):  # not there, or damaged: made anew
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if kept.pop("key") == key:
                return kept
        profile = measure_noise(
            self._network(regime),
            self.exact,
            images.with_processor(setting.source.image_processor),
            batch_size=setting.plan.batch_size,
        )
        write_json(path, {"key": key, **profile})
        return profile

    def features(self, regime: Regime) -> dict[str, BlockFeatures]:
        """Return what a network shows of every set of images."""
        return {name: self._features(regime, name) for name in self._setting.image_sets}

    def _features(self, regime: Regime, name: str) -> BlockFeatures:
        setting, images = self._setting, self._setting.image_sets[name]

        def make() -> Mapping[str, torch.Tensor]:
            prepared = images.with_processor(setting.source.image_processor)
            network, title = self._network(regime), f"{regime.name}: {name} images"
            size = setting.plan.batch_size
            return collect_block_features(network, prepared, batch_size=size, title=title)._asdict()

        path = self._output / f"features-{regime.name}-{name}.safetensors"
        return BlockFeatures(**cached_tensors(path, f"{setting.fingerprint} {images.fingerprint}", make))

    def _network(self, regime: Regime) -> QuEEForImageClassification:
        """Return a network, of the quantized ones only the last that was asked for being kept."""
        if regime.method is None:
            return self.exact
        if self._quantized is None or self._quantized[0] != regime:
            self._quantized = None  # before the next one needs its room
            self._quantized = (regime, self._quantize(regime))
        return self._quantized[1]

    def _quantize(self, regime: Regime) -> QuEEForImageClassification:
        setting, plan = self._setting, self._setting.plan
        setting.say(f"Quantizing: {regime.name}, {plan.level} bits")
        model = self._load(plan.level)
        images = setting.parts["calibration images"].with_processor(setting.source.image_processor)
        with torch.random.fork_rng(devices=[]):
            set_seed(_SEED)
            quantize(
                model,
                images,
                method=regime.method,
                smoothing=regime.smoothing,
                num_images=plan.calibration_images,
                seed=_SEED,
            )
        return model

    def _load(self, level: int | str) -> QuEEForImageClassification:
        setting, plan = self._setting, self._setting.plan
        height, width = setting.source.image_size
        model = QuEEForImageClassification.from_backbone(
            plan.model,
            class_embeddings=plan.class_embeddings,
            logit_scale=plan.logit_scale,
            exit_blocks=list(setting.exits),
            levels=[level],
            cost_model="flops",
            image_size=height if height == width else [height, width],
            id2label=dict(enumerate(setting.class_names)),
        )
        move(model, setting.device)
        return model
