"""The registry of engines, and their one grammar: the same string in Python, TOML and on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qpeft.errors import ConfigError, UnknownNameError, unknown_name
from qpeft.extras import MissingExtraError, is_installed, require
from qpeft.qcircuits import Engine, SampledEngine, Shots, StatevectorEngine, Surrogate
from qpeft.qcircuits.seeding import Draws
from qpeft.qcircuits.torchquantum_engine import INSTALL as TORCHQUANTUM_INSTALL
from qpeft.qcircuits.torchquantum_engine import TorchQuantumEngine
from qpeft.registry import Registry

GRAMMAR = "NAME[@DEVICE][:SHOTS], where SHOTS is a number (4096) or shots for each basis state (10x)"


@dataclass(frozen=True)
class EngineName:
    """An engine, its device and its shots, e.g. `exact`, `exact:10x`, `aer@ibm_torino:4096`.

    Example:
        >>> EngineName.parse("aer@ibm_torino:20x").device
        'ibm_torino'
        >>> print(EngineName.parse("exact:10x"))
        exact:10x
    """

    name: str
    device: str | None = None
    shots: Shots | None = None

    @classmethod
    def parse(cls, text: str) -> EngineName:
        """Reads a string of the grammar.

        Raises:
            ConfigError: It does not parse, names no engine, or gives the engine what it does not take.
        """
        found = re.fullmatch(r"(?P<name>[^@:]+)(@(?P<device>[^@:]+))?(:(?P<shots>[^@:]*))?", str(text).strip())
        known = re.split("[@:]", str(text).strip())[0] if found is None else found["name"]
        unknown = unknown_name("engine", known, ENGINES)
        if found is None:
            names = f"Engines: {', '.join(ENGINES)}" if known in ("", *ENGINES) else unknown
            raise ConfigError(f"engine {text!r} does not parse; expected {GRAMMAR}. {names}")
        if known not in ENGINES:
            raise UnknownNameError(f"{unknown}. An engine is {GRAMMAR}")
        entry = ENGINES[known]
        try:
            shots = None if found["shots"] is None else Shots.of(found["shots"])
        except ConfigError as error:
            raise ConfigError(f"engine {text!r}: {error}") from error
        name = cls(found["name"], found["device"], shots)
        if name.device is not None and entry.device is None:
            raise ConfigError(f"engine {text!r}: {name.name!r} takes no @DEVICE")
        if name.device is None and entry.needs_device:
            raise ConfigError(f"engine {text!r}: give {entry.device} as {name.name}@DEVICE")
        if shots is None and not entry.diff_methods:
            raise ConfigError(f"engine {text!r} only measures; give it shots: {text}:4096 or {text}:10x")
        if shots is not None and not entry.sampled_diff_methods:
            raise ConfigError(f"engine {text!r}: {name.name!r} takes no :SHOTS")
        return name

    def __str__(self) -> str:
        device = "" if self.device is None else f"@{self.device}"
        return f"{self.name}{device}" + ("" if self.shots is None else f":{self.shots}")


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is made with, beside its name.

    Attributes:
        diff_method: How it is differentiated.
        gradient_shots: Shots of each circuit of a sampled gradient; as many as forward if None.
        seed: Decides what is drawn at random.
    """

    diff_method: str
    gradient_shots: Shots | None = None
    seed: int = 0


@dataclass(frozen=True)
class EngineEntry:
    """A row of the registry.

    Attributes:
        make: Makes the engine.
        summary: One line.
        diff_methods: Differentiation methods without shots, the default first; empty if shots are required.
        sampled_diff_methods: The same with shots; empty if it takes none.
        device: What stands after the @, or None if nothing does.
        needs_device: Whether a device must be named.
        packages: Packages it imports.
        install: Command that installs them.
    """

    make: Callable[[EngineName, EngineOptions], Engine]
    summary: str
    diff_methods: tuple[str, ...]
    sampled_diff_methods: tuple[str, ...] = ()
    device: str | None = None
    needs_device: bool = False
    packages: tuple[str, ...] = ()
    install: str = ""

    @property
    def is_installed(self) -> bool:
        return is_installed(*self.packages)


def _exact(name: EngineName, options: EngineOptions) -> Engine:
    if name.shots is None:
        return StatevectorEngine(options.diff_method)  # type: ignore[arg-type]  # checked by `check_engine`
    return SampledEngine(
        StatevectorEngine(), name.shots, options.diff_method, options.gradient_shots, options.seed
    )  # fmt: skip


def _pennylane(name: EngineName, options: EngineOptions) -> Engine:
    from qpeft.qcircuits.pennylane_engine import PennyLaneEngine

    return PennyLaneEngine(
        name.device or "default.qubit", shots=name.shots, diff_method=options.diff_method,
        gradient_shots=options.gradient_shots, seed=options.seed,
    )  # fmt: skip


def _torchquantum(name: EngineName, options: EngineOptions) -> Engine:
    if name.shots is None:
        return TorchQuantumEngine()
    return SampledEngine(
        TorchQuantumEngine(), name.shots, options.diff_method, options.gradient_shots, options.seed
    )  # fmt: skip


def _hardware(name: EngineName, options: EngineOptions) -> Engine:
    from qpeft.noise import devices
    from qpeft.qcircuits.sampler_engine import QiskitSamplerEngine

    assert name.device is not None and name.shots is not None  # both required by the grammar
    if name.device.startswith("fake_"):
        require("qiskit_aer", "ibm", f"engine {str(name)!r}")  # else the local mode runs it without noise
        backend = devices.snapshot(name.device)
    else:
        backend = devices.live(name.device)
    return QiskitSamplerEngine.on_backend(
        backend, name.shots, diff_method=options.diff_method, gradient_shots=options.gradient_shots,
        seed=options.seed,
    )  # fmt: skip


def _aer(name: EngineName, options: EngineOptions) -> Engine:
    from qpeft.noise.aer_engine import NoisyAerEngine
    from qpeft.noise.device import device
    from qpeft.noise.pauli_transfer import PauliTransferEngine
    from qpeft.qcircuits.aer_engine import AerEngine

    given: dict[str, Any] = {"shots": name.shots, "seed": options.seed}
    if options.diff_method != "straight-through":
        given |= {"diff_method": options.diff_method, "gradient_shots": options.gradient_shots}
        return AerEngine(**given) if name.device is None else NoisyAerEngine(device(name.device), **given)
    if name.device is None:
        return Surrogate(AerEngine(**given), StatevectorEngine())
    return Surrogate(NoisyAerEngine(device(name.device), **given), PauliTransferEngine(device(name.device)))


def _pauli(name: EngineName, options: EngineOptions) -> Engine:
    from qpeft.noise.device import device
    from qpeft.noise.pauli_transfer import PauliTransferEngine

    assert name.device is not None  # required by the grammar
    engine = PauliTransferEngine(device(name.device))
    if name.shots is None:
        return engine
    return SampledEngine(engine, name.shots, options.diff_method, options.gradient_shots, options.seed)


ENGINES: Registry[EngineEntry] = Registry(
    "engine",
    {
        "exact": EngineEntry(
            _exact, "exact statevector in torch", ("adjoint", "backprop"),
            ("straight-through", "parameter-shift", "spsa"),
        ),
        "pauli": EngineEntry(
            _pauli, "a device's noise, exact: Pauli transfer matrices in torch", ("adjoint",),
            ("straight-through", "parameter-shift", "spsa"), device="an IBM device, e.g. ibm_torino", needs_device=True,
            packages=("qiskit_ibm_runtime", "qiskit_aer"), install='pip install "qpeft[ibm]"',
        ),
        "aer": EngineEntry(
            _aer, "Qiskit Aer, without noise or with a device's", ("parameter-shift", "spsa", "straight-through"),
            ("parameter-shift", "spsa", "straight-through"), device="an IBM device (ibm_torino)",
            packages=("qiskit_aer",), install='pip install "qpeft[aer]"',
        ),
        "pennylane": EngineEntry(
            _pennylane, "any PennyLane device (default.qubit)",
            ("best", "backprop", "adjoint", "parameter-shift", "finite-diff", "spsa", "hadamard"),
            ("parameter-shift", "finite-diff", "spsa", "hadamard"), device="a PennyLane device",
            packages=("pennylane",), install='pip install "qpeft[pennylane]"',
        ),
        "torchquantum": EngineEntry(
            _torchquantum, "TorchQuantum's statevector simulator, in complex64", ("backprop",),
            ("straight-through", "parameter-shift", "spsa"),
            packages=("torchquantum",), install=TORCHQUANTUM_INSTALL,
        ),
        "hardware": EngineEntry(
            _hardware, "an IBM device; fake_... tries out the runtime's local mode (to simulate a device use aer@...)",
            (), ("parameter-shift", "spsa"), device="a device, e.g. ibm_fez or fake_fez", needs_device=True,
            packages=("qiskit_ibm_runtime",), install='pip install "qpeft[ibm]"',
        ),
    },
)  # fmt: skip


def register_engine(name: str, entry: EngineEntry) -> None:
    """Makes an engine available under `name` wherever an engine is named; raises `ConfigError` if it is taken."""
    if not re.fullmatch(r"[^@:\s]+", name):
        raise ConfigError(f"an engine's name is one or more characters, none of them '@', ':' or space; given {name!r}")
    ENGINES.register(name, entry)


def get_engine(
    text: str, diff_method: str | None = None, gradient_shots: Shots | int | str | None = None, seed: int = 0
) -> Engine:
    """The engine a string of the grammar names.

    Args:
        text: `NAME[@DEVICE][:SHOTS]`, e.g. `exact`, `exact:10x`, `aer:4096`.
        diff_method: How it is differentiated; the engine's default if None.
        gradient_shots: Shots of each circuit of a sampled gradient; as many as forward if None.
        seed: Decides what is drawn at random.

    Raises:
        ConfigError: A string that does not parse, or a setting the engine does not take.
        MissingExtraError: A package the engine needs is not installed.

    Example:
        >>> get_engine("exact:10x").describe()["shots"]
        '10x'
    """
    name, options = check_engine(text, diff_method, gradient_shots, seed)
    entry = ENGINES[name.name]
    if not entry.is_installed:
        raise MissingExtraError(f"engine {name.name!r} needs {', '.join(entry.packages)}: {entry.install}")
    return entry.make(name, options)


def check_engine(
    text: str, diff_method: str | None = None, gradient_shots: Shots | int | str | None = None, seed: int = 0
) -> tuple[EngineName, EngineOptions]:
    """What `get_engine` would make, without importing or making anything; raises as it does."""
    name = EngineName.parse(text)
    entry = ENGINES[name.name]
    allowed = entry.diff_methods if name.shots is None else entry.sampled_diff_methods
    if diff_method is not None and diff_method not in allowed:
        if diff_method not in (*entry.diff_methods, *entry.sampled_diff_methods):
            raise UnknownNameError(unknown_name(f"diff_method of engine {str(name)!r}", diff_method, allowed))
        why = (
            "measured frequencies have no state to differentiate" if name.shots else "nothing is sampled without shots"
        )
        raise ConfigError(
            f"diff_method {diff_method!r} is not available for engine {str(name)!r}, since {why}; "
            f"available: {', '.join(allowed)}"
        )
    options = EngineOptions(diff_method or allowed[0], seed=Draws(seed).seed)
    if gradient_shots is not None:
        if name.shots is None or options.diff_method == "straight-through":
            raise ConfigError(
                f"gradient_shots is {gradient_shots}, but engine {str(name)!r} with diff_method "
                f"{options.diff_method!r} samples no gradient; give the engine shots and 'parameter-shift' or 'spsa'"
            )
        options = replace(options, gradient_shots=Shots.of(gradient_shots))
    return name, options
