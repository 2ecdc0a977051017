"""Pixel values that are no numbers, through every engine."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from tests.faults.judging import Attack, Harm
from tests.tiny import images, routable
from torch import Tensor

from quee_hf import QuEEForImageClassification
from quee_hf.execution.engines import ENGINES

HEADS = ("linear", "attention", "ssa")
LEVELS = ["fp32", 8, 4]
VALUES = {"NaN": torch.nan, "infinity": torch.inf, "minus infinity": -torch.inf}
# One value in a corner, or a whole image; heads on the class token do not see a patch that is lost.
PLACES = {"one pixel": (0, 0, 0), "another": (2, 31, 31), "all pixels": (slice(None),)}
ROUTES = {
    "routed": {"cost_lambda": 0.1},
    "along a path": {"path": [8, 4, 8]},
    "in full precision": {"path": ["fp32"] * 3},
}
_BAD = 1  # of four images


def attacks(heads: Sequence[str] = HEADS, values: Mapping[str, float] = VALUES) -> Iterator[Attack]:
    """Yield every engine, value, place and way through the network."""
    for head in heads:
        model = routable(levels=LEVELS, head_type=head).eval()
        for engine in ENGINES:
            for value, number in values.items():
                for place in PLACES.values():
                    pixel_values = images(4)
                    pixel_values[(_BAD, *place)] = number
                    yield Attack(
                        f"{value} in pixel values, `{engine}`",
                        lambda engine=engine, pixel_values=pixel_values, model=model: _classify(
                            model, engine, pixel_values
                        ),
                    )


@torch.inference_mode()
def _classify(model: QuEEForImageClassification, engine: str, pixel_values: Tensor) -> str:
    """Classify images of which one is bad, in every way, and compare the others with themselves alone."""
    if model.engine != engine:
        model.set_engine(engine)
    good = images(4)
    for name, route in ROUTES.items():
        found, expected = model(pixel_values, **route), model(good, **route)
        _compare(name, found.logits, expected.logits)
        if not found.error_probability[_BAD].isnan():
            raise Harm(f"{name}: an error was predicted")
        streamed = model.classify_stream([pixel_values[:3], pixel_values[3:]], batch_size=2, **route)
        _compare(f"{name}, as a stream", torch.cat([each.logits for each in streamed]), expected.logits)
    found = model(pixel_values, output_all_paths=True)
    _compare("all paths", found.all_logits.flatten(1), None)
    return "its logits are NaN, the others' as ever"


def _compare(name: str, found: Tensor, expected: Tensor | None) -> None:
    if (
        found.isfinite().all(dim=1).tolist() != [row != _BAD for row in range(4)]
        or not found[_BAD].isnan().all()
    ):
        raise Harm(f"{name}: logits that are finite, or others that are not")
    others = [row for row in range(4) if row != _BAD]
    # A kernel adds up in another order where rows are NaN; codes may then differ by one here and there.
    if expected is not None and (found - expected)[others].norm() > 0.02 * expected[others].norm():
        raise Harm(f"{name}: the neighbours changed")
