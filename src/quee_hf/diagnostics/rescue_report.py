"""The rescue analysis as Markdown tables, in percent and points."""

from collections.abc import Mapping, Sequence
from typing import Any

from quee_hf.tables import markdown_table

_TITLES = {
    "both_right": "both right",
    "rescue": "rescue: early right, full wrong",
    "loss": "loss: early wrong, full right",
    "both_wrong": "both wrong",
}


def rescue_table(described: Mapping[str, Any]) -> str:
    """Return what `describe_rescue` found as a Markdown table."""
    net = described["net"]
    net_count = described["rescue"]["count"] - described["loss"]["count"]
    rows = [
        *(
            [
                title,
                str(described[name]["count"]),
                _percent(described[name]["share"], described[name]["interval"]),
            ]
            for name, title in _TITLES.items()
        ),
        ["net: rescue − loss", f"{net_count:+d}", _points(net)],
    ]
    return "\n\n".join([markdown_table(["", "images", "%, 95 % interval"], rows), _test_text(described)])


def control_table(compared: Mapping[str, Any]) -> str:
    """Return what `compare_with_control` found as a Markdown table."""
    sides, difference = [compared["quantized"], compared["control"]], compared["difference"]
    rows = [
        ["accuracy, leaving early", *(_number(side["accuracy_early"]) for side in sides), ""],
        ["accuracy, whole network", *(_number(side["accuracy_full"]) for side in sides), ""],
        *(
            [
                name,
                *(_percent(side[name]["share"], side[name]["interval"]) for side in sides),
                _points(difference[name]),
            ]
            for name in ("rescue", "loss")
        ),
        ["net", *(_points(side["net"]) for side in sides), _points(difference["net"])],
        ["McNemar's p", *(f"{side['p_value']:.2g}" for side in sides), ""],
    ]
    return markdown_table(["% of images, 95 % interval", "quantized", "full precision", "difference"], rows)


def _number(share: float) -> str:
    return f"{100 * share:.2f}"


def _percent(share: float, interval: Sequence[float]) -> str:
    return f"{_number(share)} ({_number(interval[0])} to {_number(interval[1])})"


def _points(described: Mapping[str, Any]) -> str:
    """Write a difference, in points, with its interval."""
    value, low, high = (f"{100 * number:+.2f}" for number in (described["value"], *described["interval"]))
    return f"{value} ({low} to {high})"


def _test_text(described: Mapping[str, Any]) -> str:
    return (
        f"{described['num_images']} images; accuracy {_number(described['accuracy_early'])} % leaving early,"
        f" {_number(described['accuracy_full'])} % with the whole network; McNemar's exact test: p ="
        f" {described['p_value']:.2g}."
    )
