"""Files of weights, damaged in every way: at random, by hand, and by what is no safetensors at all."""

import hashlib
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from tests.faults.judging import Attack, Harm
from tests.tiny import routable
from torch import Tensor

from quee_hf import QuEEForImageClassification

FILE = "model.safetensors"
_SECTOR = 512  # bytes, in which disks lose what they lose


class Victim:
    """A saved model whose file of weights is replaced again and again.

    Args:
        folder: To save it in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = routable(levels=[8, 4])
        model.save_pretrained(folder)
        self.whole = (folder / FILE).read_bytes()
        self._weights = {name: value.clone() for name, value in model.state_dict().items()}
        (size,) = struct.unpack("<Q", self.whole[:8])
        self.start = 8 + size  # of the tensors

    def load(self, content: bytes) -> str:
        """Load the model with other bytes for weights; weights that are others, too, are harm."""
        (self.folder / FILE).write_bytes(content)
        found = QuEEForImageClassification.from_pretrained(self.folder).state_dict()
        same = found.keys() == self._weights.keys() and all(
            torch.equal(value, self._weights[name]) for name, value in found.items()
        )
        if not same:
            raise Harm("loads with other weights")
        return "loads, the same weights"


def flip(victim: Victim, bit: int) -> Attack:
    """Flip one bit of the file."""
    return Attack("a bit flipped", _flip(victim, bit))


def write_lone_seal(file: Path) -> None:
    """Write a file anew as quee_hf did when each had its own checksum, and knew of no other file."""
    header, tensors = _parts(file.read_bytes())
    blank = "0" * 64
    metadata = {**header.pop("__metadata__"), "quee_sha256": blank}
    del metadata["quee_after"]
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    content = struct.pack("<Q", len(text)) + text + tensors
    digest = hashlib.sha256(content).hexdigest()
    file.write_bytes(
        content.replace(f'"quee_sha256":"{blank}"'.encode(), f'"quee_sha256":"{digest}"'.encode(), 1)
    )


def random_damage(victim: Victim, count: int, seed: int) -> Iterator[Attack]:
    """Yield so many flipped bits of header and tensors each, and a fifth as much of every other damage."""
    random, whole = Random(seed), victim.whole
    for number in range(count):
        yield Attack("a bit flipped in the header", _flip(victim, random.randrange(8 * victim.start)))
        place = random.randrange(8 * victim.start, 8 * len(whole))
        yield Attack("a bit flipped in the tensors", _flip(victim, place))
        if number % 5:
            continue
        yield Attack("cut off somewhere", _with(victim, whole[: random.randrange(len(whole))]))
        yield Attack("1 to 64 bytes changed somewhere", _with(victim, _overwritten(whole, random)))
        yield Attack("a sector of zeros", _with(victim, _zeroed(whole, random)))
        yield Attack("bytes appended", _with(victim, whole + random.randbytes(random.randrange(1, 100))))


def _with(victim: Victim, content: bytes) -> Callable[[], str]:
    return lambda: victim.load(content)


def _flip(victim: Victim, bit: int) -> Callable[[], str]:
    damaged = bytearray(victim.whole)
    damaged[bit // 8] ^= 1 << bit % 8
    return _with(victim, bytes(damaged))


def _overwritten(whole: bytes, random: Random) -> bytes:
    place, count = random.randrange(len(whole)), random.randrange(1, 65)
    # Bytes that happen to be the same are no damage.
    return (
        whole[:place] + bytes(byte ^ 0x55 for byte in whole[place : place + count]) + whole[place + count :]
    )


def _zeroed(whole: bytes, random: Random) -> bytes:
    place = random.randrange(len(whole) // _SECTOR) * _SECTOR
    return whole[:place] + bytes(_SECTOR) + whole[place + _SECTOR :]


def _parts(content: bytes) -> tuple[dict, bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


class _Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self._sentinel = sentinel

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self._sentinel), "w")


def crafted(victim: Victim) -> Iterator[Attack]:
    """Yield what somebody would make by hand."""
    for kind, change in _OF_TENSORS.items():
        yield Attack(kind, lambda change=change: victim.load(_resaved(victim, change)))
    for kind, change in _OF_HEADERS.items():
        header = json.loads(victim.whole[8 : victim.start])
        yield Attack(kind, _with(victim, change(header, victim.whole[victim.start :])))
    yield from pickles(victim)


def pickles(victim: Victim) -> Iterator[Attack]:
    """Yield pickles under the names of weights; that one is loaded is harm."""
    sentinel = victim.folder / "sentinel"

    def load(name: str, write: Callable[[Path], None]) -> str:
        (victim.folder / FILE).unlink(missing_ok=True)
        write(victim.folder / name)
        try:
            QuEEForImageClassification.from_pretrained(victim.folder)
        finally:
            (victim.folder / name).unlink()
            if sentinel.exists():
                sentinel.unlink()
                raise Harm("a pickle was loaded")
        raise Harm("weights came from nowhere")

    exploit = {"weight": _Exploit(sentinel)}
    ways: dict[str, tuple[str, Callable[[Path], None]]] = {
        "a pickle named .safetensors": (FILE, lambda file: file.write_bytes(pickle.dumps(exploit)) and None),
        "what `torch.save` writes, named .safetensors": (FILE, lambda file: torch.save(exploit, file)),
        "`pytorch_model.bin` alone": ("pytorch_model.bin", lambda file: torch.save(exploit, file)),
    }
    for kind, (name, write) in ways.items():
        yield Attack(kind, lambda name=name, write=write: load(name, write))


def _resaved(victim: Victim, change: Callable[[dict[str, Tensor]], object]) -> bytes:
    """Return the file as another tool would write it, which knows nothing of checksums."""
    file = victim.folder / FILE
    file.write_bytes(victim.whole)
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return file.read_bytes()


_NAME = "heads.0.network.weight"
_OF_TENSORS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "a tensor of another shape": lambda t: t.update({_NAME: t[_NAME].T.contiguous()}),
    "a tensor of no dimension": lambda t: t.update({_NAME: torch.tensor(1.0)}),
    "a float tensor as integers": lambda t: t.update({_NAME: t[_NAME].int()}),
    "a tensor in float64": lambda t: t.update({_NAME: t[_NAME].double()}),
    "a tensor missing": lambda t: t.pop(_NAME),
    "a tensor too many": lambda t: t.update({"stray": torch.zeros(1)}),
    "NaN in a tensor": lambda t: t[_NAME].view(-1)[3].fill_(torch.nan),
    "infinity in a tensor": lambda t: t[_NAME].view(-1)[3].fill_(torch.inf),
}


def _packed(header: object, tensors: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def _moved(header: dict, by: int, *, both: bool) -> dict:
    """Move where the last tensor begins, and perhaps ends."""
    names = [name for name in header if name != "__metadata__"]
    last = max(names, key=lambda name: header[name]["data_offsets"][1])
    start, stop = header[last]["data_offsets"]
    return header | {last: {**header[last], "data_offsets": [start + by, stop + by * both]}}


_OF_HEADERS: dict[str, Callable[[dict, bytes], bytes]] = {
    "a header of 2^63 bytes declared": lambda h, t: struct.pack("<Q", 2**63) + json.dumps(h).encode() + t,
    "a header of 99 MB declared": lambda h, t: struct.pack("<Q", 99_000_000) + json.dumps(h).encode() + t,
    "a header of no bytes declared": lambda h, t: struct.pack("<Q", 0) + json.dumps(h).encode() + t,
    "a header that is no JSON": lambda h, t: _packed(b"{" * 1000, t),
    "a header nested 100,000 deep": lambda h, t: _packed(b'{"a":' * 100_000, t),
    "tensors that overlap": lambda h, t: _packed(_moved(h, -4, both=False), t),
    "tensors with a gap between": lambda h, t: _packed(_moved(h, 4, both=True), t + bytes(4)),
    "tensors beyond the end": lambda h, t: _packed(_moved(h, 4, both=True), t),
    "negative offsets": lambda h, t: _packed(_moved(h, -(10**6) * 10, both=True), t),
    "an empty header": lambda h, t: _packed({}, b""),
    "a name given twice, to the same tensor": lambda h, t: _packed(
        json.dumps(h)[:-1].encode() + b', "heads.0.network.weight": ' + json.dumps(h[_NAME]).encode() + b"}",
        t,
    ),
}
