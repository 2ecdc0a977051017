"""Times as if they had been measured, a certificate, and a clock that stands still unless it is told otherwise."""

from quee_hf.measurements import Profile

BATCH_SIZES = [1, 4]

CERTIFICATE = {
    "full_accuracy": 0.9,
    "num_images": 2000,
    "data": "ab" * 32,
    "image_processor": None,
    "model": "cd" * 32,
    "engine": "openvino",
    "cost_model": "latency",
    "date": "2026-11-22",
    "promise": "accuracy",
    "max_accuracy_drop": 0.01,
    "confidence": 0.95,
    "method": "betting",
    "cost_lambda": 0.2,
    "cost": 0.5,
    "observed": 0.001,
}


class FakeClock:
    """A clock whose seconds pass only by `advance`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def make_profile(num_segments: int, num_levels: int, **changes: object) -> Profile:
    """Return a profile where level `l` of segment `s` takes `(s + 1) * 2^-l` ms, an exit 0.5, a decision 0.25 and the
    embedding 1, twice as long at batch size 1."""

    def spreads(milliseconds: float) -> list[list[float]]:
        return [[factor * milliseconds * part for part in (1.0, 0.9, 1.1)] for factor in (2.0, 1.0)]

    profile: Profile = {
        "engine": "torch",
        "threads": 1,
        "machine": {"processor": "Abacus 9000", "instruction_sets": ["beads"]},
        "versions": {"quee_hf": "0.1.0"},
        "date": "2026-01-31",
        "num_rounds": [9, 7],
        "batch_sizes": list(BATCH_SIZES),
        "batch_size": 4,
        "embedding": spreads(1.0),
        "segments": [
            [spreads((s + 1) / 2**level) for level in range(num_levels)] for s in range(num_segments)
        ],
        "exits": [spreads(0.5) for _ in range(num_segments)],
        "decisions": [spreads(0.25) for _ in range(num_segments - 1)],
    }
    return {**profile, **changes}  # type: ignore[typeddict-item]
