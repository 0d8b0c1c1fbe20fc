"""Packed storage of quantised numbers: codes of 0 to 8 bits in bytes, with an FP16 scale and zero for each group."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from qpeft.errors import ConfigError
from qpeft.generators.quantization import MOST_BITS, Groups, check_quantization, quantize


class Packed(NamedTuple):
    """A quantised tensor as it is stored; `_asdict()` names the tensors for a safetensors file.

    Numbers of equal width stand together, narrow widths first, each width padded to a whole byte. A tensor of P
    numbers takes n P / 8 bytes of codes and 4 of scale and zero for each group: n + 32/g bits per number.

    Attributes:
        codes: (bytes,) uint8, lowest bit first.
        scale: (groups,) float16.
        zero: (groups,) float16.
        bits: (1,) uint8 where all groups have the same, else (groups,).
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: Tensor


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Packs whole numbers of 0 ... 2**bits - 1, (n,), into ceil(n * bits / 8) bytes, lowest bit first.

    Example:
        >>> pack_codes(torch.tensor([1, 2, 3]), bits=2).tolist()  # 0b111001
        [57]
    """
    places = torch.arange(bits, device=codes.device)
    stream = (codes.to(torch.int64)[:, None] >> places & 1).to(torch.uint8).view(-1)
    stream = torch.nn.functional.pad(stream, (0, -stream.numel() % 8)).view(-1, 8)
    return (stream << torch.arange(8, device=codes.device, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of `bits` bits in bytes that `pack_codes` wrote, (count,) uint8."""
    stream = packed[:, None] >> torch.arange(8, device=packed.device, dtype=torch.uint8) & 1
    digits = stream.view(-1)[: count * bits].view(count, bits)
    return (digits << torch.arange(bits, device=packed.device, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def pack(values: Tensor, bits: int, group: int = 128, kappa: float = 0.0) -> Packed:
    """Quantises a tensor as `QuantizationAware` does and packs it.

    Raises:
        ConfigError: Bits, group or kappa outside what is allowed, or numbers that FP16 cannot hold.
    """
    groups = quantize(values, bits, group, kappa)
    if not (groups.scale.isfinite().all() and groups.zero.isfinite().all()):
        raise ConfigError(
            f"cannot pack a tensor of shape {tuple(values.shape)}: a group's scale or zero is outside what FP16 holds "
            f"(+-65504), or the tensor has numbers that are not finite; clip it first"
        )
    widths = _widths(groups.bits, group, values.numel())
    codes = groups.codes.view(-1)[: values.numel()]
    streams = [pack_codes(codes[widths == width], width) for width in range(1, MOST_BITS + 1)]
    loaded = groups.bits.view(-1).to(torch.uint8)
    stored = loaded[:1] if kappa == 0 else loaded
    return Packed(torch.cat(streams), groups.scale.view(-1), groups.zero.view(-1), stored)


def unpack(
    packed: Packed, shape: torch.Size | tuple[int, ...], group: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The tensor of this shape that `pack` stored, bit for bit as training saw it in the same dtype.

    Raises:
        ConfigError: The stored tensors do not belong to this shape and group.
    """
    count = math.prod(shape)
    num_groups = -(-count // group)
    _check_packed(packed, num_groups, shape, group)
    loaded = packed.bits.to(torch.int32).expand(num_groups)
    widths = _widths(loaded, group, count)
    per_width = [int((widths == width).sum()) for width in range(1, MOST_BITS + 1)]
    lengths = [-(-many * width // 8) for width, many in enumerate(per_width, start=1)]
    if sum(lengths) != packed.codes.numel():
        raise ConfigError(
            f"packed codes have {packed.codes.numel()} bytes, but shape {tuple(shape)} in groups of {group} needs "
            f"{sum(lengths)}; give the shape and group they were packed with"
        )
    compute = torch.promote_types(dtype, torch.float32)
    codes = torch.zeros(num_groups * group, dtype=compute, device=packed.codes.device)
    for width, (many, stream) in enumerate(zip(per_width, packed.codes.split(lengths), strict=True), start=1):
        codes[:count][widths == width] = unpack_codes(stream, width, many).to(compute)
    groups = Groups(codes.view(-1, group), packed.scale[:, None], packed.zero[:, None], loaded[:, None])
    return groups.values().view(-1)[:count].view(shape).to(dtype)


def _widths(bits: Tensor, group: int, count: int) -> Tensor:
    """The bits of each number, (count,), from the bits of each group."""
    return bits.view(-1).repeat_interleave(group)[:count]


def _check_packed(packed: Packed, num_groups: int, shape: torch.Size | tuple[int, ...], group: int) -> None:
    """Raises `ConfigError` unless the stored tensors have the dtypes and lengths of this shape and group."""
    check_quantization(1, group)
    if packed.codes.dtype != torch.uint8 or packed.bits.dtype != torch.uint8:
        raise ConfigError(f"packed codes and bits are {packed.codes.dtype} and {packed.bits.dtype}; both must be uint8")
    if packed.bits.numel() and int(packed.bits.max()) > MOST_BITS:
        raise ConfigError(f"packed bits go up to {int(packed.bits.max())}; a group has 0 to {MOST_BITS}")
    lengths = [packed.scale.numel(), packed.zero.numel(), packed.bits.numel()]
    if lengths[:2] != [num_groups] * 2 or lengths[2] not in {1, num_groups}:
        raise ConfigError(
            f"packed scale, zero and bits have {lengths} numbers, but shape {tuple(shape)} in groups of {group} has "
            f"{num_groups} groups; give the shape and group they were packed with"
        )
