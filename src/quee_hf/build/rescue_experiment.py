"""LRA-EE's experiment: heads, gates and routes of a network quantized and in full precision, side by side."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from quee_hf.build.files import write_json, write_text
from quee_hf.build.rescue_analysis import Exits, Fitted, analyse_regime, compare_regimes
from quee_hf.build.rescue_fits import RegimeFits
from quee_hf.build.rescue_heads import KINDS, HeadKind
from quee_hf.build.rescue_networks import NUM_NOISE_IMAGES, Networks
from quee_hf.build.rescue_plan import FLOAT, Regime, RescuePlan
from quee_hf.build.rescue_report import rescue_page
from quee_hf.build.rescue_routes import Routes
from quee_hf.build.rescue_setting import Setting, load_setting
from quee_hf.diagnostics.pathological_exits import objections, pathological_exits
from quee_hf.diagnostics.rescue_plot import plot_exit_accuracies, plot_routes
from quee_hf.diagnostics.versions import library_versions
from quee_hf.errors import QuEEError


@dataclass(frozen=True)
class _Judged:
    """Which exits a regime keeps, and why the others go."""

    kept: Exits
    left_out: dict[str, list[str]]
    noise: list[dict[str, Any]]


def measure_rescue(
    plan: RescuePlan, output: Path, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure what leaving early rescues and loses, quantized and in full precision.

    What was computed is kept in `output` and used again by the next call, as long as the classifier, the
    images and what it depends on of the plan are the same. `rescue.json`, `rescue.md`, `rescue.png` and
    `heads.png` are written there.

    Args:
        plan: What to measure.
        output: Directory, made if it does not exist.
        say: Shows one line to the user.

    Returns:
        What `rescue.json` holds.

    Raises:
        QuEEError: If the classifier or the images cannot be used, or quantization spoils every early exit.
        ValueError: If the plan does not fit the classifier, or no setting is within the budget.

    Source:
        LRA-EE (arXiv:2605.26415), §5 to §7. Differs: the same in full precision beside it, intervals, and the
        classifier's own head at the end; `docs/lra-ee.md` says more.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"`output`: {output} is not a directory.")
    setting = load_setting(plan, say)
    output.mkdir(parents=True, exist_ok=True)
    networks = Networks(setting, output)
    judged = {regime.name: _judge(regime, setting, networks) for regime in plan.regimes[1:]}
    fitted = _fit_all(setting, networks, output, {name: found.kept for name, found in judged.items()})
    result = _describe(setting, judged, fitted)
    write_json(output / "rescue.json", result)
    write_text(output / "rescue.md", rescue_page(result))
    plot_routes(result["regimes"], output / "rescue.png")
    plot_exit_accuracies(result["regimes"], output / "heads.png")
    return result


def _judge(regime: Regime, setting: Setting, networks: Networks) -> _Judged:
    """Return which exits quantization noise leaves usable."""
    profile, exits = networks.profile(regime), list(setting.exits)
    spoilt, against = pathological_exits(profile, exits), objections(profile)
    kept = tuple(block for block in exits if block not in spoilt)
    if len(kept) < 2:
        raise QuEEError(
            f"{regime.name} at {setting.plan.level} bits spoils every exit before the last of `exits`"
            f" {exits}: name other exits, another method or more bits."
        )
    if spoilt:
        setting.say(f"{regime.name}: exits after blocks {spoilt} are pathological and left out")
    return _Judged(kept, {str(block): against[block] for block in spoilt}, profile["blocks"])


def _fit_all(
    setting: Setting, networks: Networks, output: Path, kept: Mapping[str, Exits]
) -> dict[str, Fitted]:
    """Fit heads and gates of all regimes; those in full precision with the exits of each of the others."""
    plan, teachers, fitted = setting.plan, (torch.empty(0), torch.empty(0)), {}
    num_fits = len(plan.regimes) * len(KINDS) * plan.num_seeds
    with tqdm(total=num_fits, desc="Heads and gates", unit="fit") as bar:
        for regime in plan.regimes:
            features = networks.features(regime)
            if regime.method is None:
                teachers = (features["train"].outputs, features["stopping"].outputs)
            wanted = {setting.exits, *kept.values()} if regime.method is None else {kept[regime.name]}
            fits = RegimeFits(setting, regime, networks.exact, features, teachers, output)
            fitted[regime.name] = _fit_regime(fits, wanted, bar)
    return fitted


def _fit_regime(fits: RegimeFits, exit_sets: set[Exits], bar: "tqdm[Any]") -> Fitted:
    seeds, heads = range(fits.setting.plan.num_seeds), dict[HeadKind, Tensor]()
    routes: dict[tuple[HeadKind, Exits], list[Mapping[str, Routes]]] = {}
    for kind in KINDS:
        rows: list[Tensor] = []
        for seed in seeds:
            bar.set_postfix_str(f"{fits.regime.name}, {kind.name}, seed {seed}")
            rows.append(fits.heads_are_right(kind, seed))
            for exits in sorted(exit_sets):
                routes.setdefault((kind, exits), []).append(fits.routes(kind, seed, exits))
            bar.update()
        heads[kind] = torch.stack(rows)
    test = fits.features["test"]
    return Fitted(fits.own_is_right(), fits.own_logits("test"), test.labels, heads, routes)


def _describe(
    setting: Setting, judged: Mapping[str, _Judged], fitted: Mapping[str, Fitted]
) -> dict[str, Any]:
    plan, regimes, compared = setting.plan, {}, {}
    is_cosine = plan.class_embeddings is not None
    for regime in plan.regimes:
        found = judged.get(regime.name, _Judged(setting.exits, {}, []))
        regimes[regime.name] = {
            "exits": list(found.kept),
            "left_out": found.left_out,
            "noise": found.noise,
            **analyse_regime(fitted[regime.name], setting, found.kept, is_cosine=is_cosine),
        }
        if regime.method is not None:
            pair = (fitted[regime.name], fitted[FLOAT])
            compared[regime.name] = compare_regimes(
                pair, found.kept, plan.budget, f"{regime.name}, {plan.level} bits"
            )
    return {
        "model": plan.model,
        "level": plan.level,
        "exits": list(setting.exits),
        "budget": plan.budget,
        "num_seeds": plan.num_seeds,
        "num_images": setting.num_images,
        "num_noise_images": min(NUM_NOISE_IMAGES, len(setting.parts["head early stopping"])),
        "data": {"source": plan.data, "fingerprint": setting.test.fingerprint},
        "versions": library_versions(),
        "statements": [found["statement"] for found in compared.values()],
        "regimes": regimes,
        "beside_control": compared,
    }
