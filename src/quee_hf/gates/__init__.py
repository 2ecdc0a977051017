"""Gates: what is known of an image, and what it predicts."""

from quee_hf.gates.error_predictor import ErrorGates
from quee_hf.gates.lra import LRAGates

Gates = ErrorGates | LRAGates
GATES: dict[str, type[Gates]] = {"error_predictor": ErrorGates, "lra": LRAGates}

__all__ = ["GATES", "ErrorGates", "Gates", "LRAGates"]
