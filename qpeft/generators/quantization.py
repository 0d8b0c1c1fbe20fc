"""Group-wise quantisation of trained numbers, in training and as stored (Quantum-PEFT, arXiv 2503.05431, section 4.2).

A tensor is read in its own order as groups of g numbers. A group keeps a scale beta and a zero mu in FP16 and an
n-bit code of each number, which is n + 32/g bits per number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.options import check_whole, is_whole

MOST_BITS = 8


class Groups(NamedTuple):
    """The codes of a tensor, one row for each group; a short last group repeats its last number.

    Attributes:
        codes: (groups, g), whole numbers of 0 ... 2**bits - 1 in the dtype of the computation.
        scale: (groups, 1), float16.
        zero: (groups, 1), float16.
        bits: (groups, 1) int32, where 0 holds the group at its zero.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: Tensor

    def values(self) -> Tensor:
        """What the codes stand for, codes * scale + zero, (groups, g)."""
        return self.codes * self.scale.to(self.codes.dtype) + self.zero.to(self.codes.dtype)


def check_quantization(bits: int, group: int, kappa: float = 0.0) -> None:
    """Raises `ConfigError` unless bits are 1 ... 8, the group has a number and kappa is finite and not negative."""
    if not is_whole(bits) or not 1 <= bits <= MOST_BITS:
        raise ConfigError(
            f"bits is {bits!r}; allowed are the whole numbers 1 to {MOST_BITS} (0 is for adaptive loading: kappa > 0)"
        )
    check_whole("the quantisation group", group)
    if not 0 <= kappa < float("inf"):
        raise ConfigError(f"kappa is {kappa}; it must be finite and at least 0, which gives every group the same bits")


def check_group_fits(group: int, values: Tensor, name: str = "the tensor") -> None:
    """Raises `ConfigError` if a group is larger than the tensor."""
    if group > values.numel():
        raise ConfigError(
            f"a quantisation group of {group} is larger than {name}, which has {values.numel()} numbers "
            f"(shape {tuple(values.shape)}); use a group of 1 to {values.numel()}"
        )


def _half_above(values: Tensor) -> Tensor:
    """The smallest float16 that is not below each value."""
    half = values.to(torch.float16)
    pattern = half.view(torch.int16)  # sign and magnitude: one up is towards +inf for a positive number only
    one_up = torch.where(half == 0, 1, pattern + torch.where(half > 0, 1, -1)).to(torch.int16).view(torch.float16)
    return torch.where(half.to(values.dtype) < values, one_up, half)


def adaptive_bits(ranges: Tensor, bits: int, kappa: float) -> Tensor:
    """Loads more bits on groups of wide range: q_i = round(q + log2(D_i**kappa / mean(D**kappa))) in 0 ... 8.

    This is bit loading of arXiv 2503.05431, appendix A.5, whose printed form lost the sum's sign; only a sum gives
    q_i = q at kappa = 0, as stated there. A group of 0 bits is pruned: all of it is held at its zero. The mean of q_i
    is at most about q, since the logarithm is concave.

    Args:
        ranges: (groups, 1), largest less smallest number of each group.
        bits: q.
        kappa: 0 for equal bits.

    Returns:
        (groups, 1), int32.
    """
    powers = (ranges / ranges.max()).pow(kappa)  # at most 1: the ratio is the same and nothing overflows
    loaded = bits + torch.log2(powers / powers.mean())
    return loaded.nan_to_num(nan=0.0).round().clamp(0, MOST_BITS).to(torch.int32)  # nan: all groups are constant


def quantize(values: Tensor, bits: int, group: int = 128, kappa: float = 0.0) -> Groups:
    """Codes round((theta - mu) / beta) with beta = (max - mu) / (2**n - 1) and mu = min, in each group.

    mu is rounded down and beta up to FP16, so that a group's levels span all of it and no number moves by more than
    beta / 2. A constant group that FP16 holds has beta = 0 and codes 0. Computed in float32 or wider.

    Args:
        values: Any shape, finite, at least one number.
        bits: n, 1 to 8.
        group: Numbers of a group, at most those of the tensor.
        kappa: Above 0, bits differ by group: see `adaptive_bits`.

    Raises:
        ConfigError: Bits, group or kappa outside what is allowed.
    """
    check_quantization(bits, group, kappa)
    check_group_fits(group, values)
    flat = values.detach().reshape(-1).to(torch.promote_types(values.dtype, torch.float32))
    missing = -flat.numel() % group
    rows = torch.cat([flat, flat[-1:].expand(missing)]).view(-1, group)
    smallest, largest = rows.aminmax(dim=1, keepdim=True)
    loaded = adaptive_bits(largest - smallest, bits, kappa)
    levels = torch.exp2(loaded.to(rows.dtype)) - 1
    zero = -_half_above(-smallest)
    scale = _half_above(torch.where(levels > 0, (largest - zero) / levels, 0.0))
    steps = (rows - zero) / scale.to(rows.dtype)
    codes = torch.where(scale > 0, steps, 0.0).round().clamp(max=levels)
    return Groups(codes, scale, zero, loaded)


class QuantizationAware(nn.Module):
    """Replaces numbers by their quantised values, and passes the gradient on as if it had not (straight-through).

    theta := theta_q + theta - detach(theta), arXiv 2503.05431, section 4.2. The values are exactly those that packed
    storage gives back. Works as a parametrisation of `torch.nn.utils.parametrize`.

    Args:
        bits: 1 to 8; with kappa > 0 the bits of a group of mean range.
        group: Numbers of a group.
        kappa: Exponent of adaptive bit loading; 0 gives every group the same bits.

    Raises:
        ConfigError: Bits, group or kappa outside what is allowed; at the call, a group larger than the tensor.

    Example:
        >>> theta = torch.tensor([0.0, 0.25, 0.75, 1.0], requires_grad=True)
        >>> QuantizationAware(bits=1, group=4)(theta).tolist()
        [0.0, 0.0, 1.0, 1.0]
    """

    def __init__(self, bits: int, group: int = 128, kappa: float = 0.0) -> None:
        super().__init__()
        check_quantization(bits, group, kappa)
        self.bits, self.group, self.kappa = bits, group, kappa

    def forward(self, values: Tensor) -> Tensor:
        with torch.no_grad():
            groups = quantize(values, self.bits, self.group, self.kappa)
            quantized = groups.values().view(-1)[: values.numel()].view_as(values).to(values.dtype)
        return quantized + (values - values.detach())  # the bracket is exactly 0

    def extra_repr(self) -> str:
        return f"bits={self.bits}, group={self.group}, kappa={self.kappa}"
