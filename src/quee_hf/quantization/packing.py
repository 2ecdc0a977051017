"""Pack small integer codes into bytes, without gaps. Pure functions."""

import torch
from torch import Tensor


def packed_size(num_codes: int, bits: int) -> int:
    """Number of bytes that `num_codes` codes of `bits` bits take."""
    return (num_codes * bits + 7) // 8


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack signed codes into a stream of bits, least significant bit first.

    Args:
        codes: Any shape, integers in [-2**(bits-1), 2**(bits-1) - 1].
        bits: Bits per code, 2 to 8.

    Returns:
        `(packed_size(codes.numel(), bits),)`, uint8. The last byte is filled up with zeros.

    Raises:
        ValueError: If a code does not fit in `bits` bits.

    Example:
        >>> pack_codes(torch.tensor([-8, 7, 0, 1]), bits=4).tolist()
        [240, 152]
    """
    half = 2 ** (bits - 1)
    flat = codes.reshape(-1).to(torch.int16)
    if flat.numel() and not (-half <= int(flat.min()) and int(flat.max()) < half):
        raise ValueError(f"Codes must fit in {bits} signed bits, got {int(flat.min())} to {int(flat.max())}.")
    unsigned: Tensor = (flat + half).to(torch.uint8)
    if bits == 8:
        return unsigned
    places = torch.arange(bits, dtype=torch.uint8, device=codes.device)
    stream = (unsigned[:, None] >> places) & 1  # (codes, bits)
    stream = torch.nn.functional.pad(stream.reshape(-1), (0, -stream.numel() % 8)).reshape(-1, 8)
    weights = 2 ** torch.arange(8, dtype=torch.int32, device=codes.device)
    packed: Tensor = (stream.to(torch.int32) * weights).sum(dim=1).to(torch.uint8)
    return packed


def unpack_codes(packed: Tensor, shape: tuple[int, ...], bits: int) -> Tensor:
    """Invert `pack_codes`.

    Args:
        packed: uint8, as `pack_codes` returns it.
        shape: Shape of the codes.
        bits: Bits per code.

    Returns:
        Codes of the given shape, int8.
    """
    half, num_codes = 2 ** (bits - 1), int(torch.Size(shape).numel())
    if bits == 8:
        codes: Tensor = packed.to(torch.int16) - half
        return codes.to(torch.int8).reshape(shape)
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    stream = ((packed[:, None] >> places) & 1).reshape(-1)[: num_codes * bits].reshape(num_codes, bits)
    weights = 2 ** torch.arange(bits, dtype=torch.int16, device=packed.device)
    codes = (stream.to(torch.int16) * weights).sum(dim=1) - half
    return codes.to(torch.int8).reshape(shape)
