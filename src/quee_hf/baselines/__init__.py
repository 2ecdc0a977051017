"""Other ways to route the same network, to compare gates with: each fits on gate data and routes outputs."""

from quee_hf.baselines.bit_controller import by_bit_controller
from quee_hf.baselines.confidence import by_budget, by_threshold, certainty, largest_probability, margin
from quee_hf.baselines.controls import best_path, oracle, random_exits
from quee_hf.baselines.next_best_step import by_next_best_step
from quee_hf.baselines.patience import by_patience
from quee_hf.baselines.sweep import Fit, GateData, Method, Sweep

BASELINES: dict[str, Fit] = {
    "max-probability": by_threshold(largest_probability),
    "entropy": by_threshold(certainty),
    "margin": by_threshold(margin),
    "budgeted": by_budget,
    "patience": by_patience,
    "next-best-step": by_next_best_step,
    "dqnet-gate": by_bit_controller,
    "best-path": best_path,
    "random": random_exits,
    "oracle": oracle,
}

__all__ = ["BASELINES", "Fit", "GateData", "Method", "Sweep"]
