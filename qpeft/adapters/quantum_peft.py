"""Quantum-PEFT: LoRA updates U diag(l) V^T whose frames a circuit or a Lie algebra's map makes of few numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import torch
from peft import LoraConfig
from torch import nn

from qpeft.adapters.built_config import CUSTOM, BuiltConfig, damaged
from qpeft.adapters.frame_bank import FrameBank
from qpeft.adapters.frame_card import frame_facts
from qpeft.adapters.lora_options import check_lora_options
from qpeft.adapters.network_bank import NetworkBank
from qpeft.adapters.peft_internals import GeneratedLoraModel, QpeftType, Shape, register
from qpeft.adapters.resolved import another_build, changed_settings
from qpeft.errors import ConfigError
from qpeft.frame_settings import FrameSettings
from qpeft.generator_settings import check_ansatz
from qpeft.generators.diagonal import DiagonalNode
from qpeft.generators.frames import FRAMES, FramePool, PauliFrame
from qpeft.generators.packed_state import pack_on_save
from qpeft.options import check_whole, is_whole, option
from qpeft.qcircuits import ANSATZE, Circuit

_SETTINGS = tuple(field.name for field in fields(FrameSettings))
_DEFAULTS = tuple(name for name in _SETTINGS if name != "init_scale")  # which counts for nothing once numbers trained


@dataclass
class QuantumPEFTConfig(BuiltConfig, FrameSettings, LoraConfig):  # type: ignore[misc]  # peft is untyped
    """Configuration of Quantum-PEFT (arXiv 2503.05431): dW = lora_alpha / r * U diag(l) V^T, of rank r = K at most.

    U and V have K orthonormal columns, generated from few trained numbers; l is zero at the start, so that the adapter
    starts as the identity. The scale is the paper's, with `use_rslora` lora_alpha / sqrt(r); the paper's settings are
    r=3 with "pauli" for GLUE, and r=2 with "taylor", intrinsic_rank=1 and order=3 for GPT-2.

    Signs (diagonal="rademacher") and a `measurement` make an l that is not zero at the start. The update of the start
    is then subtracted, which doubles the rank. Signs are the identity at the start in evaluation alone: in training
    about an eighth of them are drawn as -1.

    With `network`, dW is lora_alpha / r times a tensor network of such frames, whose bonds have size r, around a core
    or diagonal that starts as l does. Its rank is r, for a "tensor_ring" r**2, for "tucker" r**(modes / 2) at most, or
    twice that where a start is subtracted.

    Raises:
        ConfigError: A value that is not allowed, or a setting that the parametrization does not have.

    Example:
        >>> from peft import get_peft_model
        >>> config = QuantumPEFTConfig(r=3, target_modules=["0"])
        >>> get_peft_model(nn.Sequential(nn.Linear(16, 16)), config).get_nb_trainable_parameters()[0]
        23
        >>> 2 * (3 * 4 - 2) + 3  # the angles of U and of V, on log2 16 qubits, and l
        23
    """

    exported: ClassVar[str] = "as a plain LoRA of peft's, which needs neither qpeft nor a circuit"

    r: int = option(4, "K, columns of the frames and rank of the update")
    lora_alpha: int = option(32, "scale: the update is multiplied by lora_alpha / r")
    reps: int | None = option(None, "L, layers of the circuit (1)")
    # peft saves the whole embedding matrix beside an adapter of `lm_head` unless token rows are listed: none are.
    trainable_token_indices: Any = option({}, "always empty")

    def __post_init__(self) -> None:
        check_lora_options(self, "Quantum-PEFT", covers=())
        LoraConfig.__post_init__(self)
        self.peft_type = QpeftType.QUANTUM_PEFT
        FrameSettings.__post_init__(self)
        check_ansatz(self.ansatz)
        if isinstance(self.ansatz, str) and self.ansatz != CUSTOM and self.resolved is None:
            ANSATZE[self.ansatz]  # an unknown name raises; that of a saved adapter, which has its circuits, need not be
        if self.reps is not None:
            check_whole("reps", self.reps, least=0)
        for name in ("ansatz", "reps"):
            if getattr(self, name) is not None and not self.takes(name):
                raise ConfigError(f"{name} is no setting of parametrization {self.parametrization!r}: leave {name} out")
        if isinstance(self.ansatz, Circuit) and self.reps is not None:
            raise ConfigError(f"reps is {self.reps}, but the Circuit given as ansatz has its own layers; leave it out")
        if self.intrinsic_rank is not None and self.intrinsic_rank > self.r:
            raise ConfigError(
                f"intrinsic_rank K' is {self.intrinsic_rank}, above the rank K = {self.r}; use 1 to {self.r}, or "
                "raise r"
            )
        self.check_built()

    @staticmethod
    def is_resolved(data: Any) -> bool:
        if not isinstance(data, dict):
            return False
        parts = {"settings": dict, "defaults": dict, "targets": list, "circuits": list}
        return (
            all(isinstance(data.get(name), kind) for name, kind in parts.items())
            and set(data["defaults"]) <= {*_DEFAULTS, "reps"}
            and all(isinstance(circuit, dict) for circuit in data["circuits"])
            and all(_is_target(target) for target in data["targets"])
        )

    def settings(self) -> dict[str, Any]:
        names = (*_SETTINGS, "reps", "r")
        return {name: getattr(self, name) for name in names} | {"ansatz": self.ansatz_name}

    def card_facts(self) -> list[str]:
        return [] if self.resolved is None else frame_facts(self)

    def build_bank(self, targets: dict[str, Shape]) -> FrameBank | NetworkBank:
        """The module that generates the factors of `targets`; fills in `resolved`.

        Args:
            targets: Layer name to (out_features, in_features).

        Raises:
            ConfigError: Sizes that cannot be, or settings or layers that are not those of the saved adapter.
        """
        for name, shape in targets.items():
            if min(shape) < 2:
                raise ConfigError(
                    f"{name} is {shape[0]} x {shape[1]}: frames have sizes of at least 2; leave the layer out"
                )
        saved = self._saved_build(targets)
        if saved is not None:
            targets = _as_shapes(saved["targets"])  # the numbers lie in the file in this order
        bank = self._bank(targets, saved)
        if self.parametrization == "neumann" and not self.is_saved and bank.device.type != "meta":
            with torch.no_grad():
                for pool in bank.modules():
                    if isinstance(pool, FramePool):
                        pool()  # refuses norms that the series does not have
        # Each circuit once, in an order that is the same in every process: the file must be too.
        circuits = dict.fromkeys(module.circuit for module in bank.modules() if isinstance(module, PauliFrame))
        if len(circuits) > len({circuit.num_qubits for circuit in circuits}):
            raise ConfigError(
                "the ansatz function returned different circuits for the same number of qubits, which a saved adapter "
                "cannot tell apart; give one that always returns the same"
            )
        self.resolved = {
            "settings": self.settings(),
            "defaults": self._defaults(bank.modules()) | (saved["defaults"] if saved else {}),
            "targets": [[name, *shape] for name, shape in targets.items()],
            "circuits": [circuit.to_dict() for circuit in circuits],
            "num_parameters": sum(parameter.numel() for parameter in bank.parameters()), "num_frozen": bank.num_frozen,
        }  # fmt: skip
        return bank

    def _bank(self, targets: dict[str, Shape], saved: dict[str, Any] | None) -> FrameBank | NetworkBank:
        """A bank of these settings; what is left None is as in the saved adapter, if there is one."""
        then = {"defaults": {}, "circuits": []} if saved is None else saved
        given = {name: getattr(self, name) for name in (*_SETTINGS, "reps")}
        given |= {name: value for name, value in then["defaults"].items() if given[name] is None}
        circuit = {"reps": given.pop("reps"), "ansatz": self.ansatz}
        if saved is not None and self.takes("ansatz"):
            circuit["ansatz"] = _Saved({one.num_qubits: one for one in map(Circuit.from_dict, then["circuits"])})
        made = FrameSettings(**given)
        frame = partial(made.new_frame, **{name: value for name, value in circuit.items() if value is not None})
        pack = None if self.bits is None else partial(pack_on_save, bits=self.bits, **made.quantization())
        if made.network is None:
            return FrameBank(targets, self.r, frame, made.new_diagonal, pack)
        return NetworkBank(targets, made.network, made.folds, self.r, frame, made.new_diagonal, pack)

    def _defaults(self, modules: Iterable[nn.Module]) -> dict[str, Any]:
        """What the settings that were left None came to; another version of this package may have other defaults."""
        came_to = self.usual()
        for module in modules:
            if isinstance(module, FRAMES[self.parametrization] | DiagonalNode):
                came_to |= {name: getattr(module, name) for name in (*_DEFAULTS, "reps") if hasattr(module, name)}
        return {name: value for name, value in came_to.items() if getattr(self, name) is None}

    def _saved_build(self, targets: dict[str, Shape]) -> dict[str, Any] | None:
        """`resolved`, if it was filled in for these layers and the settings are still those; else None.

        A config outlives its first model: it is changed, copied with `dataclasses.replace`, used on other models. One
        that was read from a file must not come out as another adapter.
        """
        saved = self.resolved or {"settings": {}, "targets": []}
        # A circuit or function that is at hand is not the one of the adapter that was built, whatever that was.
        now = self.settings() | ({} if isinstance(self.ansatz, str | None) else {"ansatz": self.ansatz})
        differs = _differences(_as_shapes(saved["targets"]), targets)
        if not changed_settings(saved["settings"], now) and not differs:
            return self.resolved
        if self.resolved is None and self.ansatz == CUSTOM:
            raise ConfigError(
                "ansatz is 'custom', a circuit of the user's own that this config does not hold: it was written before "
                "an adapter was built. Give the circuit again as ansatz"
            )
        if self.ansatz == CUSTOM or self.is_saved:
            raise another_build(saved["settings"], now, differs)
        return None


def _is_target(entry: Any) -> bool:
    """Whether data read from a file can be a layer and its shape: name, out_features, in_features."""
    return isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and all(map(is_whole, entry[1:]))


def _as_shapes(targets: list[list[Any]]) -> dict[str, Shape]:
    return {name: (rows, columns) for name, rows, columns in targets}


class _Saved(dict[int, Circuit]):
    """The circuits of a saved adapter by their qubits, as an ansatz."""

    def __call__(self, num_qubits: int, reps: int) -> Circuit:
        return self[num_qubits]

    def __missing__(self, num_qubits: int) -> Circuit:
        raise damaged("resolved", f"circuits of {', '.join(map(str, self)) or 'no'} qubits, not of {num_qubits}")


def _differences(then: dict[str, Shape], now: dict[str, Shape]) -> str | None:
    """How the layers of a model differ from those that an adapter was made for, in whatever order; None if they do not.

    The first three differences are named.
    """
    lacking = [f"this model's targets have no {name}, for which it was made" for name in then if name not in now]
    added = [f"it was not made for {name}, which this model's targets have" for name in now if name not in then]
    resized = [
        f"{name} is {' x '.join(map(str, now[name]))} here and was {' x '.join(map(str, shape))}"
        for name, shape in then.items()
        if name in now and now[name] != shape
    ]
    found = lacking + added + resized
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    return f"{'; '.join(found[:3])}{more}" if found else None


class QuantumPEFTModel(GeneratedLoraModel):
    """The tuner behind `QuantumPEFTConfig`."""

    def build_bank(self, config: Any, targets: dict[str, Shape]) -> FrameBank | NetworkBank:
        bank: FrameBank | NetworkBank = config.build_bank(targets)
        return bank


register(QpeftType.QUANTUM_PEFT, QuantumPEFTConfig, QuantumPEFTModel)
