"""Which versions made a result."""

from importlib.metadata import PackageNotFoundError, version


def library_versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that its results depend on."""
    return {name: _version(name.replace("_", "-")) for name in ("quee_hf", "torch", "transformers")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # imported from a source tree
        return "unknown"
