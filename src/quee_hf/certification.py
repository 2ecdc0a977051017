"""`certify`: the cheapest lambda that keeps a promise about accuracy, with a stated confidence."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs, replay
from quee_hf.measurements import Certificate
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.routing.certify import (
    METHODS,
    Losses,
    disagreements,
    images_needed,
    in_random_order,
    last_certified,
    signed_gaps,
)

PROMISES = ("accuracy", "consistency")
_BATCH_SIZE = 32
CONFIDENCE = 0.95  # of the certificates that a pipeline goes by, at least
# Tested in this order, until one fails: steps of a tenth, so that the last that holds is near the edge.
LAMBDAS = (0.0, *(round(0.001 * 1.1**step, 6) for step in range(90)))


class Certification(NamedTuple):
    """What became of an attempt to certify."""

    certificate: Certificate | None  # `None`: nothing can be certified from these images
    num_images: int
    images_needed: int | None  # about so many like these would do; `None` if there is a certificate, or none


def certify(
    model: QuEEForImageClassification,
    data: Dataset[Any] | PathOutputs,
    *,
    max_accuracy_drop: float = 0.01,
    confidence: float = CONFIDENCE,
    promise: str = "accuracy",
    method: str = "betting",
) -> Certification:
    """Find the cheapest lambda that keeps a promise, and keep the certificate in the model's config.

    The promise "accuracy" is that routed images are right at most `max_accuracy_drop` less often than the
    whole network at its most exact level is; "consistency", which needs no labels, that routed classes differ
    from its classes at most that often. It holds for images drawn like these, with a probability of at least
    `confidence` over which images were drawn. Each certificate is as sure as it says by itself; that several
    all hold is less sure.

    Args:
        model: With trained gates; on the engine that it is to run on.
        data: Images that played no role in making the model, or their collected outputs. Those that measured
            operating points will do: which lambdas are tested does not depend on them. Images of
            `quee_hf.data` are looked for among those that the model's config knows by their hashes.
        max_accuracy_drop: In (0, 1) for "consistency" and "hoeffding_bentkus"; in (-1, 1) for the others: a
            negative one promises a gain.
        confidence: In (0, 1).
        promise: "accuracy" or "consistency".
        method: "betting", which counts images that an early exit rescues, or "hoeffding_bentkus".

    Raises:
        ValueError: If an argument has no meaning, before anything runs.
        NotReadyError: If the gates are not trained.
        BadDatasetError: If some of the images were used to make the model.

    Source:
        Angelopoulos et al. 2021 (Learn then Test), for QuEE's lambda; `quee_hf.routing.certify` has the
        bounds.
    """
    check_promise(max_accuracy_drop, confidence, promise, method)
    kept = Promise(promise, confidence, method)
    if isinstance(data, PathOutputs):
        model.check_gates_are_trained()
        (found,) = certify_outputs(model, data, kept, [max_accuracy_drop], fingerprint_of(data))
        _keep(model, [found])
    else:
        (found,) = certify_images(model, data, kept, [max_accuracy_drop])
    return found


class Promise(NamedTuple):
    """What is to be certified, but for the limit."""

    kind: str
    confidence: float
    method: str


def certify_images(
    model: QuEEForImageClassification,
    data: Dataset[Any],
    promise: Promise,
    limits: Sequence[float],
    *,
    source: str = "data",
    batch_size: int = _BATCH_SIZE,
) -> list[Certification]:
    """Do what `certify` does, for several limits.

    Args:
        model: As `certify` takes it.
        data: The images.
        promise: What is to be certified.
        limits: What may be lost, each.
        source: Name of the images, for errors and the model's config.
        batch_size: Images that run together.
    """
    from quee_hf.data import ProcessedImages  # takes a tenth of a second, which few who import us need
    from quee_hf.data.roles import CERTIFICATION, OPERATING_POINTS, check_unused, describe_roles, record_roles

    model.check_gates_are_trained()
    images = data.images if isinstance(data, ProcessedImages) else None
    if images is not None:
        check_unused(model.config, images, source, but=(CERTIFICATION, OPERATING_POINTS))
    outputs = collect_path_outputs(model.network, data, batch_size=batch_size, device=model.device)
    fingerprint = fingerprint_of(outputs) if images is None else images.fingerprint
    found = certify_outputs(model, outputs, promise, limits, fingerprint)
    _keep(model, found)
    if images is not None:
        record_roles(model.config, describe_roles(source, {CERTIFICATION: images}))
    return found


def certify_outputs(
    model: QuEEForImageClassification,
    outputs: PathOutputs,
    promise: Promise,
    limits: Sequence[float],
    fingerprint: str,
) -> list[Certification]:
    """Do what `certify` does, for several limits, of outputs that are there, and keep nothing.

    Args:
        model: As `certify` takes it.
        outputs: Of the images, by the model.
        promise: What is to be certified.
        limits: What may be lost, each.
        fingerprint: Of the images.
    """
    weights = fingerprint_of_weights(model)
    losses, costs = _losses(model, outputs, promise.kind)
    level, p_value = 1 - promise.confidence, METHODS[promise.method]
    found = []
    for limit in limits:
        row = last_certified(losses, limit, level, p_value)
        if row is None:
            needed = images_needed(losses[0], limit, level, p_value)
            found.append(Certification(None, len(outputs), needed))
            continue
        certificate: Certificate = {
            "promise": promise.kind,
            "max_accuracy_drop": limit,
            "confidence": promise.confidence,
            "method": promise.method,
            "cost_lambda": LAMBDAS[row],
            "cost": round(costs[row], 6),
            "observed": round(float(losses[row].mean()), 6),
            "num_images": len(outputs),
            "data": fingerprint,
            "cost_model": model.config.cost_model,
            "engine": model.engine,
            "weights": weights,
            "date": datetime.now(UTC).date().isoformat(),
        }
        found.append(Certification(certificate, len(outputs), None))
    return found


def _keep(model: QuEEForImageClassification, found: Sequence[Certification]) -> None:
    """Keep certificates in the model's config, each in place of one of the same promise."""

    def promise_of(certificate: Mapping[str, Any]) -> tuple[Any, ...]:
        names = ("promise", "max_accuracy_drop", "confidence", "engine", "cost_model")
        return tuple(certificate[name] for name in names)

    held = {promise_of(each): each for each in model.config.certificates or ()}
    new = [dict(each.certificate) for each in found if each.certificate is not None]
    if new:
        held |= {promise_of(each): each for each in new}
        model.config.certificates = sorted(held.values(), key=promise_of)


def certified_lambda(model: QuEEForImageClassification, max_accuracy_drop: float) -> float:
    """Return the cheapest lambda that is certified to lose at most so much accuracy.

    Certificates of less than 95 % confidence do not count. One of consistency serves as well: classes that do
    not differ cannot lose accuracy. Warns if the certificate was made on another engine, or with other
    weights.

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
    best = min(good, key=lambda each: (each["engine"] != model.engine, each["cost"]))
    if best["engine"] != model.engine:
        warnings.warn(
            f"The certificate was made with the engine {best['engine']!r}; this is {model.engine!r}, whose"
            " rounding differs: certify anew to be sure.",
            stacklevel=2,
        )
    # Weights that an engine has taken over cannot have changed since, and are not there to be looked at.
    if model.trunk.weights_at is None and best["weights"] != fingerprint_of_weights(model):
        warnings.warn("The model's weights are not those that were certified: certify anew.", stacklevel=2)
    return float(best["cost_lambda"])


def fingerprint_of_weights(model: QuEEForImageClassification) -> str:
    """Return the SHA-256 of a model's tensors, their names and shapes."""
    content = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        content.update(memoryview(flat.numpy()))
    return content.hexdigest()


def fingerprint_of(outputs: PathOutputs) -> str:
    """Return a SHA-256 that tells images by what a model says of them, where nothing else tells them."""
    content = hashlib.sha256(outputs.logits.float().cpu().contiguous().numpy().tobytes())
    content.update(outputs.labels.cpu().numpy().tobytes())
    return content.hexdigest()


def check_promise(limit: float, confidence: float, promise: str, method: str) -> None:
    """Raise `ValueError` if the arguments of `certify` have no meaning."""
    if promise not in PROMISES:
        raise ValueError(f"`promise` must be one of {list(PROMISES)}, got {promise!r}.")
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {list(METHODS)}, got {method!r}.")
    lowest = -1.0 if (promise, method) == ("accuracy", "betting") else 0.0
    if not lowest < limit < 1:
        raise ValueError(
            f"`max_accuracy_drop` must be above {lowest:g} and below 1 for the promise {promise!r} by"
            f" {method!r}, got {limit}."
        )
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be above 0 and below 1, got {confidence}.")


def _losses(
    model: QuEEForImageClassification, outputs: PathOutputs, promise: str
) -> tuple[Losses, list[float]]:
    """Return losses, `(lambdas, images)`, in random order, and the mean cost at each lambda."""
    full = model.paths.index((0,) * model.config.num_exits)
    classes_in_full = outputs.logits[:, full].argmax(dim=-1).numpy()
    classes, costs = [], []
    for value in LAMBDAS:
        routes = replay(model, outputs, value)
        classes.append(routes.logits.argmax(dim=-1).numpy())
        costs.append(float(model.router.costs[routes.node].double().mean()))
    order, chosen = in_random_order(len(outputs)), np.stack(classes)
    if promise == "consistency":
        return disagreements(chosen, classes_in_full)[:, order], costs
    labels = outputs.labels.numpy()
    return signed_gaps(chosen == labels, classes_in_full == labels)[:, order], costs
