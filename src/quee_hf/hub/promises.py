"""What a model promises, for its card."""

from quee_hf.configuration import QuEEConfig
from quee_hf.tables import markdown_table

_MEANINGS = {
    "accuracy": "right at most that much less often than the whole network",
    "consistency": "another class than the whole network's at most that often",
}


def promises_section(config: QuEEConfig, _repo_id: str | None) -> str:
    """Return the section of the card on certificates, or nothing if there are none."""
    if not config.certificates:
        return ""
    rows = [
        [
            f"{each['max_accuracy_drop']:.2%}, {each['promise']}",
            f"{each['confidence']:.0%}",
            f"{each['cost_lambda']:g}",
            f"{each['cost']:.3f}",
            f"{each['observed']:+.2%}",
            "-" if each["full_accuracy"] is None else f"{each['full_accuracy']:.1%}",
            f"{each['num_images']}, {each['method']}",
            f"`{each['engine']}`, {each['date']}",
        ]
        for each in config.certificates
    ]
    header = ["at most", "confidence", "cost_lambda", "mean cost", "lost there", "whole network right there"]
    header += ["images, method", "engine"]
    named = {each["promise"] for each in config.certificates}
    meaning = "; ".join(f"*{kind}*: {text}" for kind, text in _MEANINGS.items() if kind in named)
    lowest = min(each["max_accuracy_drop"] for each in config.certificates)
    return (
        f"## What it promises\n\nFor images drawn like those it was certified on: {meaning}. Each line holds"
        " by itself, with its confidence over which images were drawn; on images of another kind none"
        f" does.\n\n{markdown_table(header, rows)}\n\n```python\n"
        f'classify("image.png", max_accuracy_drop={lowest:g})\n```'
    )
