"""Modules whose saved state holds some parameters or buffers quantised and packed, n + 32/g bits a number.

The saved state does not hold the numbers that train, in full precision: a module that is loaded from it goes on from
the quantised ones. To go on exactly, keep `latent_state` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qpeft.errors import ConfigError
from qpeft.generators.packing import Packed, pack, unpack
from qpeft.generators.quantization import QuantizationAware, check_group_fits, check_quantization

_ATTRIBUTE = "packed_parameters"  # of a module: its `PackedParameters`


class PackedParameters:
    """How some parameters of a module are quantised: `pack_on_save` makes it.

    Numbers that were loaded are not quantised a second time. They are on a grid already, but the grid that they would
    get is not always the same: FP16 rounds its scale anew, and with kappa > 0 a group held at its zero has lost the
    range that decided over the bits of all. So, until one of its numbers changes, a loaded tensor stays as it is, and
    is saved byte for byte as it came.

    Attributes:
        names: Of the parameters and buffers, within the module.
        bits: n.
        group: g, numbers of a group.
        kappa: Exponent of adaptive bit loading.
    """

    def __init__(self, names: Sequence[str], bits: int, group: int, kappa: float) -> None:
        check_quantization(bits, group, kappa)
        self.names, self.bits, self.group, self.kappa = tuple(names), bits, group, kappa
        self._quantize = QuantizationAware(bits, group, kappa)
        self._loaded: dict[str, tuple[Packed, Tensor]] = {}  # what came, and the numbers it stands for

    def quantized(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by name, with those of packed parameters quantised as they are saved; the gradient passes through.

        Not for a graph of `torch.compile`, which would leave out roundings to FP16: hide it in an operator, as
        `qpeft.generators.frames.traced.TracedFrame(frame, prepare=packed.quantized)` does.
        """
        return {
            name: self._quantized(name, values) if name in self.names else values for name, values in numbers.items()
        }

    def _quantized(self, name: str, values: Tensor) -> Tensor:
        quantized: Tensor = self._quantize(values)
        loaded = self._loaded_numbers(name, values)
        if loaded is None:
            return quantized
        return torch.where((values == loaded).all(), values, quantized)  # decided on the device: nobody waits

    def _loaded_numbers(self, name: str, like: Tensor) -> Tensor | None:
        if name not in self._loaded:
            return None
        packed, values = self._loaded[name]
        if values.device != like.device:
            values = values.to(like.device)
            self._loaded[name] = packed, values
        return values.to(like.dtype)

    def pack(self, name: str, values: Tensor) -> Packed:
        """A parameter's tensors as they are saved; without memory on the meta device.

        Raises:
            ConfigError: Numbers that FP16 cannot hold.
        """
        if values.is_meta:
            return self._empty(values)
        loaded = self._loaded_numbers(name, values)
        if loaded is not None and torch.equal(values, loaded):
            return Packed(*(part.to(values.device) for part in self._loaded[name][0]))
        return pack(values, self.bits, self.group, self.kappa)

    def unpack(self, name: str, packed: Packed, parameter: Tensor) -> Tensor:
        """The numbers that `packed` stands for, which are kept as they are until one of them changes.

        Raises:
            ConfigError: Tensors that do not belong to the parameter's shape and the group.
        """
        values = unpack(packed, parameter.shape, self.group, parameter.dtype)
        self._loaded[name] = packed, values.clone()
        return values

    def _empty(self, values: Tensor) -> Packed:
        """What will be saved of a parameter that has no numbers yet."""
        groups = -(-values.numel() // self.group)
        lengths = (
            (0, groups, groups, groups) if self.kappa else (-(-values.numel() * self.bits // 8), groups, groups, 1)
        )
        dtypes = (torch.uint8, torch.float16, torch.float16, torch.uint8)
        return Packed(*(values.new_empty(n, dtype=dtype) for n, dtype in zip(lengths, dtypes, strict=True)))


def pack_on_save(
    module: nn.Module, names: Sequence[str], bits: int, group: int = 128, kappa: float = 0.0
) -> PackedParameters:
    """Makes `module.state_dict()` hold NAME.codes, NAME.scale, NAME.zero and NAME.bits in place of tensors NAME.

    `module.load_state_dict()` takes these and fills the parameters with the quantised numbers; it also takes a NAME in
    full precision. The module's forward is as before: what it is to compute with, `quantized` of the result gives.
    Copies and pickles of the module do the same.

    Args:
        module: Holds the parameters; in the state of a module around it, the names have its prefix as usual.
        names: Of parameters or buffers, with dots for those of submodules.
        bits: 1 to 8; with kappa > 0 the bits of a group of mean range.
        group: Numbers of a group.
        kappa: Exponent of adaptive bit loading; 0 gives every group the same bits.

    Raises:
        ConfigError: Settings outside what is allowed, a name that nothing has, a tensor smaller than a group, or a
            module that packs already. When it saves: numbers that FP16 cannot hold.

    Example:
        >>> layer = nn.Linear(64, 64)
        >>> packed = pack_on_save(layer, ["weight"], bits=2, group=32)
        >>> {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
        {'bias': (64,), 'weight.codes': (1024,), 'weight.scale': (128,), 'weight.zero': (128,), 'weight.bits': (1,)}
        >>> before = packed.quantized({"weight": layer.weight})["weight"]
        >>> layer.load_state_dict(layer.state_dict())
        <All keys matched successfully>
        >>> torch.equal(layer.weight, before)
        True
    """
    if hasattr(module, _ATTRIBUTE):
        raise ConfigError(f"this {type(module).__name__} packs parameters already; name all of them in one call")
    packed = PackedParameters(names, bits, group, kappa)
    tensors = _tensors(module)
    for name in packed.names:
        if name not in tensors:
            raise ConfigError(f"{type(module).__name__} has no parameter {name!r}; it has {', '.join(tensors)}")
        check_group_fits(group, tensors[name], name)
    setattr(module, _ATTRIBUTE, packed)
    module.register_state_dict_post_hook(partial(_write, packed))
    module.register_load_state_dict_pre_hook(partial(_read, packed))
    return packed


def names_of_any_length(module: nn.Module) -> set[str]:
    """Names in `module.state_dict()` whose tensors have a length that depends on the numbers: codes with kappa > 0."""
    return {f"{prefix}{name}.codes" for prefix, packed in _packings(module) if packed.kappa for name in packed.names}


def latent_state(module: nn.Module) -> dict[str, Tensor]:
    """The numbers that train, in full precision, of all packed parameters in `module`: what `state_dict` leaves out."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {
        f"{prefix}{name}": parameters[f"{prefix}{name}"].detach().clone()
        for prefix, packed in _packings(module)
        for name in packed.names
        if f"{prefix}{name}" in parameters  # buffers do not train
    }


@torch.no_grad()
def load_latent_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts back what `latent_state` gave, after `load_state_dict`: training then goes on as if it had not stopped.

    Raises:
        ConfigError: A parameter is missing, of another shape, or there is one too many.
    """
    parameters = {name: module.get_parameter(name) for name in latent_state(module)}
    wanted = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differing = [name for name in {**wanted, **given} if wanted.get(name) != given.get(name)]
    if differing:
        problems = [f"{name} is {given.get(name, 'missing')}, not {wanted.get(name, 'there')}" for name in differing]
        raise ConfigError(f"the latent numbers are not those of this {type(module).__name__}: {'; '.join(problems)}")
    for name, parameter in parameters.items():
        parameter.copy_(state[name])


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _packings(module: nn.Module) -> Iterator[tuple[str, PackedParameters]]:
    """What is packed in `module` and below, each with the prefix of its names."""
    for path, part in module.named_modules():
        packed = getattr(part, _ATTRIBUTE, None)
        if packed is not None:
            yield f"{path}." if path else "", packed


def _write(
    packed: PackedParameters, module: nn.Module, state_dict: dict[str, Tensor], prefix: str, local_metadata: Any
) -> None:
    """Replaces parameters in a state by their packed tensors: a hook of `nn.Module`."""
    for name in packed.names:
        stored = packed.pack(name, state_dict.pop(f"{prefix}{name}").detach())
        state_dict.update({f"{prefix}{name}.{part}": tensor for part, tensor in stored._asdict().items()})


def _read(
    packed: PackedParameters, module: nn.Module, state_dict: dict[str, Tensor], prefix: str, local_metadata: Any,
    strict: bool, missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
) -> None:  # fmt: skip
    """Replaces packed tensors in a state by the parameters they stand for: a hook of `nn.Module`."""
    for name in packed.names:
        key = f"{prefix}{name}"
        if key in state_dict:
            continue  # in full precision; if there are packed tensors too, they will be called unexpected
        parameter = _tensors(module)[name]
        given = {part: state_dict.pop(f"{key}.{part}", None) for part in Packed._fields}
        state_dict[key] = parameter.detach()  # it stays as it is, if the rest fails
        found = [tensor for tensor in given.values() if tensor is not None]
        if len(found) < len(given):
            missing_keys.extend(f"{key}.{part}" for part, tensor in given.items() if tensor is None)
            continue
        try:
            state_dict[key] = packed.unpack(name, Packed(*found), parameter)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
