"""Compare QuEE's gates with every baseline on the real models and images that `QUEE_ASSETS` points to.

Run: `python benchmarks/comparison.py [dinov2-cifar10] [clip-tinyimagenet]`. Each model is built at 6, 5 and 4
bits into `runs/comparison/` and compared there with `quee compare`, three times anew; an interrupted run
goes on. Writes `docs/results/<name>.md` and its pictures.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets import EXPERIMENTS, ROOT, RUNS, chosen_names

from quee_hf.build.comparison_methods import CLUSTER_METHODS, DEFAULT_METHODS
from quee_hf.tables import markdown_table

QUEE = Path(sys.executable).parent / "quee"
LEVELS = "6,5,4"
# With 200 classes, clusters of all paths' probabilities take longer than everything else together.
_ALL = (*DEFAULT_METHODS, "quee-seeing-test")
METHODS = {"dinov2-cifar10": (*_ALL, *CLUSTER_METHODS), "clip-tinyimagenet": _ALL}
PICTURES = ("comparison", "classes", "clusters")
RESULTS = ROOT / "docs" / "results"
EXPECTED = ("oracle", "quee", "jei-dnn", "max-probability", "dqnet-gate", "static")  # from best to worst
NEAR = 0.002  # of the full path's accuracy, that routing may lose at the cost of a lower width
CEILINGS = ("oracle", "quee-seeing-test")  # know what no gate does
NEAR_COST = 0.02  # so near, curves begin together
SHOWN = ("best-path", "dqnet-gate", "max-probability", "quee-paper", "quee", "quee-seeing-test", "oracle")


def run(*words: object) -> None:
    """Run `quee`."""
    subprocess.run([str(word) for word in (QUEE, *words)], check=True)


def compare(name: str) -> dict[str, Any]:
    """Build a model and compare on its test images, or do what is left of it."""
    experiment, folder = EXPERIMENTS[name](), RUNS / "comparison" / name
    sources = ["--train", experiment["train"], "--validation", experiment["validation"]]
    settings = ["--recipe", experiment["recipe"], "--levels", LEVELS]
    words = [*sources, *settings, *experiment["options"], "--output", folder / "build"]
    run("build", "--model", experiment["model"], *words)
    images = ["--data", experiment["test"], "--validation", experiment["validation"]]
    if experiment["options"]:
        images += ["--match-labels", "numbers"]
    methods = ["--methods", ",".join(METHODS[name])]
    run("compare", folder / "build" / "model", *images, *methods, "--output", folder)
    RESULTS.mkdir(exist_ok=True)
    for picture in PICTURES:
        if (folder / f"{picture}.png").exists():
            shutil.copy(folder / f"{picture}.png", RESULTS / f"{name}-{picture}.png")
    return {
        "name": name,
        "title": experiment["title"],
        "settings": " ".join(settings),
        "table": (folder / "comparison.md").read_text(encoding="utf-8"),
        **json.loads((folder / "comparison.json").read_text(encoding="utf-8")),
    }


def describe(result: Mapping[str, Any]) -> str:
    """Write a result as a page."""
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    data, classes, name = result["data"], result["classes"], result["name"]
    setting = (
        f"{data['num_images']} test images; exits after blocks {_joined(result['exit_blocks'])}, levels"
        f" {_joined(result['levels'])} (`quee build {result['settings']}`); costs by"
        f" `{result['cost_model']}`, relative to the whole network at {result['levels'][0]} bits. Gates and"
        f" baselines learnt from {result['validation']['num_images']} images that the backbone had not seen,"
        f" {result['num_seeds']} times on other divisions; intervals (95 %) are over test images and fits."
        " Area: mean accuracy over budgets from 0.2 to 1. Test images were used for nothing else."
    )
    parts = [
        f"# {result['title']}: gates compared",
        f"Written by `python benchmarks/comparison.py {name}`, with {versions}.",
        setting,
        f"![Accuracy over cost]({name}-comparison.png)",
        result["table"].strip(),
        "## At the cost of each static width",
        f"Full path: {result['full_path_accuracy']:.2%}. Accuracy in percent where images cost as much, on"
        " average, as the whole network at one width.",
        _widths(result),
        "What gates gain is the step from the best path for all images to `quee`; what they lose to learning"
        " from few images, that to gates that saw the test images; what exits do not know, the last step.",
        _goals(result),
        _order(result),
        _above(result),
        _limits(result),
        "## Gates",
        "How well gates predict the error of leaving at once, on test images, the mean over fits; RMSE is to"
        " outcomes, over all paths that they score.",
        _gates(result["gates"]),
        "## Classes",
        f"At λ = {classes['cost_lambda']:g}, the cheapest that loses at most a point in the first fit:",
        f"![Paths by class]({name}-classes.png)",
    ]
    if (RESULTS / f"{name}-clusters.png").exists():
        parts += [
            "## Clusters",
            "The paper's gates, taught by the error rates of so many clusters, beside quee. They differ in"
            " features and width, too, and learn from half of the images: the other half is for clusters.",
            f"![Area over clusters]({name}-clusters.png)",
        ]
    return "\n\n".join(parts) + "\n"


def _joined(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _widths(result: Mapping[str, Any]) -> str:
    methods = [name for name in SHOWN if name in result["methods"]]
    rows = []
    for width in result["static"]:
        found = [_interval(_at(result, name, width)) for name in methods]
        rows.append(
            [f"{width['level']} bits", f"{width['cost']:.3f}", f"{100 * width['accuracy']:.2f}", *found]
        )
    return markdown_table(["static width", "cost", "static", *methods], rows)


def _goals(result: Mapping[str, Any]) -> str:
    """Say of every goal whether it was reached, and where not, what is missing."""
    full, lines = result["full_path_accuracy"], []
    for width in result["static"][1:]:
        found = _accuracy_at(result, "quee", width)
        above, near = found - width["accuracy"], full - found
        is_reached = above > 0 and near <= NEAR
        verdict = "as wanted" if is_reached else "not as wanted"
        lines.append(
            f"- At the cost of {width['level']} bits, routing is {100 * above:+.2f} points above that width"
            f" and {100 * near:+.2f} points under the full path: {verdict} (at most {100 * NEAR:g} under)."
        )
        if not is_reached:
            lines[-1] += f" {_missing(result, width)}"
    cost = result["methods"]["quee"]["cost_at_drop"]["0.005"]
    lines.append(f"- At 0.5 points under the full path it costs {_cost(cost)} of it.")
    oracle = result["methods"]["oracle"]["cost_at_drop"]["0.005"]
    lines.append(f"- An oracle that knows the true errors needs {_cost(oracle)} for that.")
    return "\n".join(lines)


def _missing(result: Mapping[str, Any], width: Mapping[str, Any]) -> str:
    """Say what would be gained, or lost, by other knowledge, targets or paths, at the cost of a width."""
    names = ("best-path", "quee-paper", "quee", "quee-seeing-test", "oracle")
    best, paper, own, seeing, oracle = (_accuracy_at(result, name, width) for name in names)
    return (
        f"An oracle has {100 * oracle:.2f} % there. Gates that know the test images gain"
        f" {100 * (seeing - own):.2f} points: more images to learn from could give no more. The paper's"
        f" targets and features lose {100 * (own - paper):.2f}. One path for all images has"
        f" {100 * (best - width['accuracy']):+.2f} over the width. What is missing beyond is what exits"
        " before the last do not know."
    )


def _accuracy_at(result: Mapping[str, Any], method: str, width: Mapping[str, Any]) -> float:
    return float(_at(result, method, width)["value"] or 0.0)


def _at(result: Mapping[str, Any], method: str, width: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a method's accuracy at the cost of a width, with its interval."""
    described: Mapping[str, Any] = result["methods"][method]["accuracy_at_cost"][f"{width['cost']:g}"]
    return described


def _cost(described: Mapping[str, Any]) -> str:
    if described["value"] is None:
        return "more than the whole"
    low, high = ("…" if end is None else f"{end:.3f}" for end in described["interval"])
    return f"{described['value']:.3f} ({low} to {high})"


def _order(result: Mapping[str, Any]) -> str:
    """Say where the order of areas is not the expected one, and what else differs there."""
    areas = {name: 100 * result["methods"][name]["area"]["value"] for name in EXPECTED}
    odd = [
        f"- {worse} is {areas[worse] - areas[better]:.2f} points of area above {better}. "
        + _beside(result, worse, better)
        for position, better in enumerate(EXPECTED)
        for worse in EXPECTED[position + 1 :]
        if areas[worse] > areas[better]
    ]
    expected = f"Expected order of areas: {' > '.join(EXPECTED)}."
    return "\n".join([expected, "", *odd] if odd else [f"{expected} So it is here."])


def _beside(result: Mapping[str, Any], first: str, second: str) -> str:
    """Compare two methods point by point where both are."""
    starts = [min(point["cost"] for point in result["methods"][name]["curve"]) for name in (first, second)]
    parts = []
    if abs(starts[0] - starts[1]) > NEAR_COST:
        parts.append(
            f"It begins at cost {starts[0]:.3f}, {second} at {starts[1]:.3f}; where a method has no point,"
            " its area does not grow."
        )
    for width in result["static"]:
        found = [_at(result, name, width) for name in (first, second)]
        if None not in [one["value"] for one in found]:
            texts = " against ".join(_interval(one) for one in found)
            parts.append(f"At cost {width['cost']:.3f}: {texts} %.")
    return " ".join(parts)


def _above(result: Mapping[str, Any]) -> str:
    """Say which methods have a larger area than `quee`."""
    found = [
        f"{name} ({_interval(method['area_difference'])})"
        for name, method in result["methods"].items()
        if name not in CEILINGS and method["area"]["value"] > result["methods"]["quee"]["area"]["value"]
    ]
    return (
        f"Areas above that of quee, in points: {', '.join(found)}." if found else "No area is above quee's."
    )


def _limits(result: Mapping[str, Any]) -> str:
    """Say what a reader must know of the methods before comparing them."""
    dearest = max(point["cost"] for point in result["methods"]["jei-dnn"]["curve"])
    return (
        "Heads of cls-ee and jei-dnn learn from the images for gates, a few thousand; all others share the"
        f" heads of the build. The dearest setting of jei-dnn costs {dearest:.3f}; above, its figures are"
        " that setting's. next-best-step has a set of gates for every λ, and needs new ones when costs"
        " change. Curves keep the settings that no other beats on the test images themselves, which"
        " flatters methods with many settings close together a little: random and next-best-step most."
    )


def _interval(described: Mapping[str, Any]) -> str:
    if described["value"] is None:
        return "not reached"
    low, high = described["interval"]
    return f"{100 * described['value']:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _gates(gates: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    fields = ("rmse", "auroc", "auroc_of_max_probability", "aurc", "aurc_of_max_probability", "ece")
    titles = ["RMSE", "AUROC", "of max probability", "AURC", "of max probability", "ECE"]
    rows = [
        [name, str(gate["exit_block"]), *("" if gate[key] is None else f"{gate[key]:.3f}" for key in fields)]
        for name, found in gates.items()
        for gate in found
        if "ece" in gate
    ]
    return markdown_table(["gates", "after block", *titles], rows)


def main() -> None:
    for name in chosen_names(__doc__):
        page = describe(compare(name))
        (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
