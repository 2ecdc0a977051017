"""`certify`: the cheapest lambda that keeps a promise about accuracy, with a stated confidence."""

import hashlib
import logging
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from quee_hf.certificates import (
    CONFIDENCE,
    fingerprint_of_model,
    fingerprint_of_processor,
    keep_certificates,
)
from quee_hf.errors import BadDatasetError
from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs, replay
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.promises import METHODS, PROMISES, Certificate, Circumstances
from quee_hf.routing.certify import (
    P_VALUES,
    Losses,
    disagreements,
    images_needed,
    in_random_order,
    last_certified,
    signed_gaps,
)
from quee_hf.values import is_number

logger = logging.getLogger(__name__)

_BATCH_SIZE = 32
_UNKNOWN = "It is not known whether some of the images"
# Tested in this order, until one fails: steps of a tenth, so that the last that holds is near the edge.
LAMBDAS = (0.0, *(round(0.001 * 1.1**step, 6) for step in range(90)))


class Certification(NamedTuple):
    """What became of an attempt to certify."""

    certificate: Certificate | None  # `None`: nothing can be certified from these images
    num_images: int
    # About so many like these would do; `None` if there is a certificate, or these lose too much to tell.
    images_needed: int | None


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
    from its classes at most that often. It holds for images drawn like these, independently of each other,
    and prepared like these, with a probability of at least `confidence` over which images were drawn. Each
    certificate is as sure as it says by itself; that several all hold is less sure.

    Args:
        model: With trained gates; on the engine that it is to run on.
        data: Images that played no role in making the model, or their collected outputs. Those that measured
            operating points will do: which lambdas are tested does not depend on them. Images of
            `quee_hf.data` are looked for among those that the model's config knows by their hashes, and count
            once however often they are there. For "consistency" items need no labels.
        max_accuracy_drop: In (0, 1) for "consistency" and "hoeffding_bentkus"; in (-1, 1) for the others: a
            negative one promises a gain.
        confidence: In (0, 1).
        promise: "accuracy" or "consistency".
        method: "betting", which counts images that an early exit rescues, or "hoeffding_bentkus".

    Raises:
        ValueError: If an argument has no meaning, before anything runs; or if the network says NaN.
        NotReadyError: If the gates are not trained.
        BadDatasetError: If some of the images were used to make the model, or a label is none of its classes.

    Source:
        Angelopoulos et al. 2021 (Learn then Test), for QuEE's lambda; `quee_hf.routing.certify` has the
        bounds.
    """
    check_promise(max_accuracy_drop, confidence, promise, method)
    kept = Promise(promise, confidence, method)
    if isinstance(data, PathOutputs):
        model.check_gates_are_trained()
        (found,) = certify_outputs(model, data, kept, [max_accuracy_drop], fingerprint_of(data))
        keep_certificates(model.config, _certificates([found]))
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
    # They take a tenth of a second to import, which few who import us need.
    from quee_hf.data.labelled_images import known_images
    from quee_hf.data.roles import CERTIFICATION, OPERATING_POINTS, check_unused, describe_roles, record_roles

    model.check_gates_are_trained()
    images = image_processor = None
    if (known := known_images(data)) is None:
        logger.warning(
            f"{_UNKNOWN} are there twice, or made the model: that can be told of those of `quee_hf.data`."
        )
    else:
        images, image_processor = known.images.distinct(), known.image_processor
        data = images.with_processor(image_processor)
        check_unused(model.config, images, source, but=(CERTIFICATION, OPERATING_POINTS))
        roles = (model.config.record or {}).get("roles", ())
        if "gate training" not in [role["role"] for role in roles]:
            logger.warning(f"{_UNKNOWN} made the model: it does not say which images did.")
    outputs = collect_path_outputs(
        model.network,
        data,
        batch_size=batch_size,
        device=model.device,
        labelled=promise.kind == "accuracy",
    )
    fingerprint = fingerprint_of(outputs) if images is None else images.fingerprint
    found = certify_outputs(model, outputs, promise, limits, fingerprint, image_processor)
    if kept := _certificates(found):
        keep_certificates(model.config, kept)
        if images is not None:
            record_roles(model.config, describe_roles(source, {CERTIFICATION: images}))
    return found


def certify_outputs(
    model: QuEEForImageClassification,
    outputs: PathOutputs,
    promise: Promise,
    limits: Sequence[float],
    fingerprint: str,
    image_processor: Any = None,
) -> list[Certification]:
    """Do what `certify` does, for several limits, of outputs that are there, and keep nothing.

    Args:
        model: As `certify` takes it.
        outputs: Of the images, by the model.
        promise: What is to be certified.
        limits: What may be lost, each.
        fingerprint: Of the images.
        image_processor: That prepared them, if that is known.
    """
    _check_outputs(outputs, promise.kind)
    losses, costs = _losses(model, outputs, promise.kind)
    known = _circumstances(model, outputs, promise.kind, fingerprint, image_processor)
    level, p_value = 1 - promise.confidence, P_VALUES[promise.method]
    found = []
    for limit in limits:
        row = last_certified(losses, limit, level, p_value)
        if row is None:
            needed = images_needed(losses[0], limit, level, p_value)
            found.append(Certification(None, len(outputs), needed))
            continue
        certificate: Certificate = {
            **known,
            "promise": promise.kind,
            "max_accuracy_drop": limit,
            "confidence": promise.confidence,
            "method": promise.method,
            "cost_lambda": LAMBDAS[row],
            "cost": round(costs[row], 6),
            "observed": round(float(losses[row].mean()), 6),
        }
        found.append(Certification(certificate, len(outputs), None))
    return found


def _circumstances(
    model: QuEEForImageClassification,
    outputs: PathOutputs,
    promise: str,
    fingerprint: str,
    image_processor: Any,
) -> Circumstances:
    return {
        "full_accuracy": _full_accuracy(model, outputs) if promise == "accuracy" else None,
        "num_images": len(outputs),
        "data": fingerprint,
        "image_processor": None if image_processor is None else fingerprint_of_processor(image_processor),
        "model": fingerprint_of_model(model),
        "engine": model.engine,
        "cost_model": model.config.cost_model,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _certificates(found: Sequence[Certification]) -> list[Certificate]:
    return [each.certificate for each in found if each.certificate is not None]


def _check_outputs(outputs: PathOutputs, promise: str) -> None:
    """Raise an error if nothing can be learned from outputs."""
    if not outputs.logits.isfinite().all():
        number = int((~outputs.logits.isfinite()).flatten(1).any(dim=1).sum())
        raise ValueError(f"The network says NaN or infinity of {number} of {len(outputs)} images.")
    labels, num_classes = outputs.labels, outputs.logits.shape[-1]
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if promise == "accuracy" and len(wrong):
        raise BadDatasetError(
            f"{len(wrong)} of {len(labels)} labels are not one of 0 to {num_classes - 1}, such as"
            f' {int(wrong[0])}. The promise "consistency" needs no labels.'
        )


def _full_accuracy(model: QuEEForImageClassification, outputs: PathOutputs) -> float:
    """Return how often the whole network is right, and warn if labels seem to mean other classes."""
    accuracy = 1 - float(outputs.is_wrong[:, model.router.tree.exact_nodes[-1]].double().mean())
    if accuracy <= 1 / outputs.logits.shape[-1]:
        warnings.warn(
            f"The whole network is right on {accuracy:.2%} of the images, no more than by chance: a"
            " certificate of accuracy says little. Do the labels mean the model's classes?",
            stacklevel=2,
        )
    return round(accuracy, 6)


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
    if not is_number(limit) or not lowest < limit < 1:
        raise ValueError(
            f"`max_accuracy_drop` must be above {lowest:g} and below 1 for the promise {promise!r} by"
            f" {method!r}, got {limit!r}."
        )
    if not is_number(confidence) or not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be above 0 and below 1, got {confidence!r}.")


def _losses(
    model: QuEEForImageClassification, outputs: PathOutputs, promise: str
) -> tuple[Losses, list[float]]:
    """Return losses, `(lambdas, images)`, in random order, and the mean cost at each lambda."""
    classes_in_full = outputs.logits[:, model.router.tree.exact_nodes[-1]].argmax(dim=-1).numpy()
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
