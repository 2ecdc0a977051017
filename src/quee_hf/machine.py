"""Which machine this is, as far as it decides how long a network takes."""

import platform
import subprocess
import warnings
from functools import cache
from pathlib import Path

import torch

from quee_hf.measurements import Machine, Profile

_CPUINFO = Path("/proc/cpuinfo")
# As Linux names them, of x86 and of Arm.
_INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


def this_machine(device: torch.device) -> Machine:
    """Return what runs a network that is on a device."""
    if device.type == "cuda":
        return {"processor": torch.cuda.get_device_name(device), "instruction_sets": []}
    if device.type != "cpu":
        return {"processor": f"{_processor()} ({device.type})", "instruction_sets": []}
    return {"processor": _processor(), "instruction_sets": _instruction_sets()}


def warn_if_elsewhere(profile: Profile, engine: str, device: torch.device) -> None:
    """Warn, once for each pair, if times are of another processor or engine than a model runs on."""
    measured, here = profile["machine"]["processor"], this_machine(device)["processor"]
    if (profile["engine"], measured) != (engine, here):
        _warn(f"the engine {profile['engine']!r} on {measured}", f"{engine!r} on {here}")


@cache
def _warn(measured: str, here: str) -> None:
    warnings.warn(
        f"Routing goes by times of {measured}, but the model runs with {here}, where other paths may be"
        " cheap: measure it there, with `quee profile` or `quee_hf.profile(model)`.",
        stacklevel=4,
    )


@cache
def _processor() -> str:
    names = _cpuinfo("model name")
    if names:
        return names[0]
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if found:
            return found
    return platform.processor() or platform.machine() or "unknown processor"


@cache
def _instruction_sets() -> list[str]:
    flags = {flag for line in (*_cpuinfo("flags")[:1], *_cpuinfo("Features")[:1]) for flag in line.split()}
    return [name for name in _INSTRUCTION_SETS if name in flags]


def _cpuinfo(field: str) -> list[str]:
    """Return what Linux says of each processor; nothing elsewhere."""
    if not _CPUINFO.is_file():
        return []
    lines = (line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8").splitlines())
    return [value.strip() for name, _, value in lines if name.strip() == field]
