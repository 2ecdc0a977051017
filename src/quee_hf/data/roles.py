"""Which images played which role in making a model. Its config keeps it, so that none serves twice."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from quee_hf.configuration import QuEEConfig
from quee_hf.data.labelled_images import LabelledImages
from quee_hf.data.sources import shown_source
from quee_hf.errors import BadDatasetError

OPERATING_POINTS, CERTIFICATION = "operating points", "certification"
# Of images that are the part f of a role, one is in its sketch with a probability of 1 - (1 - f) ** 512:
# 95 % for 0.6 % of it; roles of no more images are known whole. In a config that is 7 kB a role.
_SKETCH_SIZE, _DIGITS = 512, 12


def describe_roles(source: str, parts: Mapping[str, LabelledImages]) -> list[dict[str, Any]]:
    """Return one entry for each role of a source: how many images, and which.

    Returns:
        Each with `fingerprint`, which tells the very same images, and `sketch`, the beginnings of the
        smallest digests of images, which tells whether other images are among them.
    """
    return [
        {
            "role": role,
            "source": source,
            "num_images": len(part),
            "fingerprint": part.fingerprint,
            "sketch": " ".join(sorted(_short_digests(part))[:_SKETCH_SIZE]),
        }
        for role, part in parts.items()
    ]


def record_roles(config: QuEEConfig, roles: Sequence[Mapping[str, Any]]) -> None:
    """Keep in a config who played which role; a role that is there already is played anew.

    Args:
        config: Of the model; changed.
        roles: As `describe_roles` returns them.
    """
    new = [{**role, "source": shown_source(role["source"])} for role in roles]
    if not new:
        return
    names = {role["role"] for role in new}
    kept = [role for role in (config.record or {}).get("roles", ()) if role["role"] not in names]
    config.keep_record("roles", [*kept, *new])


def check_unused(
    config: QuEEConfig,
    images: LabelledImages,
    source: str,
    *,
    prefix: str = "",
    but: Collection[str] = (),
) -> None:
    """Raise `BadDatasetError` if images played a role already, as far as the sketches of roles can tell.

    Args:
        config: Of the model.
        images: To be used.
        source: Of them.
        prefix: With which the roles that matter begin.
        but: Roles that do not matter.
    """
    digests, roles = _short_digests(images), (config.record or {}).get("roles", ())
    known = [role["role"] for role in roles if digests & set(role.get("sketch", "").split())]
    if known := [role for role in known if role.startswith(prefix) and role not in but]:
        raise BadDatasetError(
            f"{source} holds images that the model was made with ({', '.join(known)}): on them it does better"
            " than on others."
        )


def _short_digests(images: LabelledImages) -> set[str]:
    return {digest.tobytes().hex()[:_DIGITS] for digest in images.digests}
