"""Certificates: what they were made for, how a config keeps them, and which one a pipeline goes by."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from quee_hf.configuration import QuEEConfig
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.promises import METHODS, PROMISES
from quee_hf.values import without

CONFIDENCE = 0.95  # of the certificates that a pipeline goes by, at least
# Of a config: what decides how images are routed. The cost table does, too, where costs are times.
_DECIDING = (
    *("exit_blocks", "levels", "head_type", "gate_type", "gate_features", "max_paths", "path_seed"),
    *("monotone_levels", "first_level", "quantization", "cost_model", "logit_scale"),
)
# Of a backbone's config: what says nothing of what it computes.
_NAMES = (
    *("_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type", "torch_dtype"),
    "transformers_version",
)
# Of an image processor's: which class runs it.
_CLASSES = ("image_processor_type", "processor_class")


def keep_certificates(config: QuEEConfig, found: Iterable[Mapping[str, Any]]) -> None:
    """Keep certificates in a config, each in place of one of the same promise, method, engine and costs."""
    names = ("promise", "max_accuracy_drop", "confidence", "method", "engine", "cost_model")

    def promise_of(certificate: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(certificate[name] for name in names)

    held = {promise_of(each): each for each in config.certificates or ()}
    held |= {promise_of(each): dict(each) for each in found}
    config.certificates = sorted(held.values(), key=promise_of) or None


def certified_lambda(
    model: QuEEForImageClassification, max_accuracy_drop: float, image_processor: Any = None
) -> float:
    """Return the lambda of the certificate that promises to lose at most so much accuracy.

    Certificates of less than 95 % confidence do not count. One of consistency serves as well: classes that do
    not differ cannot lose accuracy. Of several, what they promise decides, not what they cost, because the
    cheapest of many is the likeliest to be a lucky one: this engine's before another's, then the highest
    limit, then accuracy before consistency and betting before the other method.

    Warns if the certificate was made on another engine, with other weights or settings, or with images that
    were prepared in another way.

    Args:
        model: Whose certificates are looked at.
        max_accuracy_drop: As `quee_hf.certify` takes it.
        image_processor: What prepares images, if that is known.

    Raises:
        ValueError: If no certificate covers it.
    """
    config = model.config
    held: list[dict[str, Any]] = [
        each
        for each in config.certificates or ()
        if each["cost_model"] == config.cost_model and each["confidence"] >= CONFIDENCE
    ]
    good = [each for each in held if each["max_accuracy_drop"] <= max_accuracy_drop]
    if not good:
        known = ", ".join(f"{each['max_accuracy_drop']:g}" for each in held) or "none"
        raise ValueError(
            f"No certificate covers `max_accuracy_drop` {max_accuracy_drop:g}; certified with"
            f" {CONFIDENCE:.0%} confidence are: {known}. Run `quee certify MODEL --data IMAGES"
            " --max-accuracy-drop ...`, or `quee_hf.certify`."
        )

    def order(certificate: Mapping[str, Any]) -> tuple[Any, ...]:
        return (
            certificate["engine"] != model.engine,
            -certificate["max_accuracy_drop"],
            PROMISES.index(certificate["promise"]),
            METHODS.index(certificate["method"]),
            certificate["confidence"],
        )

    chosen = min(good, key=order)
    _warn_of_changes(chosen, model, image_processor)
    return float(chosen["cost_lambda"])


def _warn_of_changes(
    certificate: Mapping[str, Any], model: QuEEForImageClassification, image_processor: Any
) -> None:
    changes = []
    if (engine := certificate["engine"]) != model.engine:
        changes.append(
            f"was made with the engine {engine!r}, and this is {model.engine!r}, whose rounding differs"
        )
    if model.trunk.weights_at is not None:
        changes.append("cannot be compared with weights that an engine alone has: ask for it before they go")
    elif certificate["model"] != fingerprint_of_model(model):
        changes.append("is of a model with other weights or settings")
    prepared = certificate["image_processor"], image_processor
    if None not in prepared and prepared[0] != fingerprint_of_processor(image_processor):
        changes.append("is of images that were prepared in another way")
    for change in changes:
        warnings.warn(f"The certificate {change}; certify anew to be sure.", stacklevel=3)


def fingerprint_of_model(model: QuEEForImageClassification) -> str:
    """Return a SHA-256 of a model's tensors and of what else decides where images leave."""
    content = hashlib.sha256(_text(_settings(model.config)))
    for name, tensor in sorted(model.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        content.update(memoryview(flat.numpy()))
    return content.hexdigest()


def fingerprint_of_processor(image_processor: Any) -> str:
    """Return a SHA-256 of how an image processor prepares images, whatever class it is of."""
    return hashlib.sha256(_text(without(image_processor.to_dict(), *_CLASSES))).hexdigest()


def _settings(config: QuEEConfig) -> dict[str, Any]:
    deciding = {name: getattr(config, name) for name in _DECIDING}
    table = config.cost_table if config.cost_model == "latency" else None
    return {**deciding, "cost_table": table, "backbone": without(config.backbone.to_dict(), *_NAMES)}


def _text(values: Mapping[str, Any]) -> bytes:
    """Write values so that they read the same before and after they are kept in a file."""
    return json.dumps(values, sort_keys=True, default=str).encode()
