"""Files that let `trust_remote_code=True` find this package, or say how to install it."""

from pathlib import Path
from types import MappingProxyType

# What `config.json` says of where the classes are. transformers copies and imports single files only, so each
# class has a file, which imports it from the installed package.
AUTO_MAP = MappingProxyType(
    {
        "AutoConfig": "configuration_quee.QuEEConfig",
        "AutoModelForImageClassification": "modeling_quee.QuEEForImageClassification",
    }
)
REMOTE_CODE_FILES = tuple(f"{reference.split('.')[0]}.py" for reference in AUTO_MAP.values())

# The import stands in `try`, where transformers does not look for requirements: its own message would not say
# what the package is called where it is installed from.
_FILE = '''"""Loads `{name}` from the package quee_hf."""

try:
    from quee_hf import {name}
except ImportError as error:
    raise ImportError("This is a QuEE model, which needs the package quee_hf: pip install quee-hf") from error

__all__ = ["{name}"]
'''


def write_remote_code(folder: Path) -> None:
    """Write the files that `AUTO_MAP` names."""
    for reference in AUTO_MAP.values():
        module, name = reference.split(".")
        (folder / f"{module}.py").write_text(_FILE.format(name=name), encoding="utf-8")
