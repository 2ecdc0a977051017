"""The errors a caller may want to catch. Bad arguments raise plain `ValueError` or `TypeError`."""


class QuEEError(Exception):
    """Any error that is specific to this package."""


class UnsupportedBackboneError(QuEEError, ValueError):
    """The model cannot be wrapped: its type, head or configuration is not one that is supported."""


class MissingExtraError(QuEEError, ImportError):
    """An optional dependency is missing; the message names the `pip install` that provides it."""


class IncompatibleCheckpointError(QuEEError, ValueError):
    """A saved model cannot be loaded: damaged, incomplete, too new, or not finite."""


class NotReadyError(QuEEError, RuntimeError):
    """The model lacks a step (quantization, trained heads, trained gates) that the call needs."""


class OutdatedError(QuEEError, ValueError):
    """A model's costs, levels, gates or classes have changed since something that watches them was made."""


class BadImageError(QuEEError, ValueError):
    """An image cannot be decoded."""


class BadDatasetError(QuEEError, ValueError):
    """A data source is missing, unreadable, or does not fit the model."""
