"""Trainers for exit heads and gates."""

from quee_hf.training.arguments import recommended_arguments
from quee_hf.training.error_targets import ErrorTargets
from quee_hf.training.exit_heads import ExitHeadTrainer
from quee_hf.training.gates import GateTrainer

__all__ = ["ErrorTargets", "ExitHeadTrainer", "GateTrainer", "recommended_arguments"]
