"""Hardware, and whatever else is a Qiskit `BaseSamplerV2`: every evaluation is one job of one PUB.

A session or batch of `qiskit_ibm_runtime` is used through its sampler, made where the session is open:

    with Session(backend=backend) as session:
        engine = QiskitSamplerEngine(SamplerV2(mode=session), shots=4096)

What hardware measures does not repeat bit for bit from run to run, whatever the seed: the ranks of a parallel run
measure each for itself, pay each for itself, and get different weights. A job is waited for without a limit, in the
queue too. An interrupt leaves a submitted job in the device's queue.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qpeft.errors import ConfigError, EngineError
from qpeft.extras import require
from qpeft.qcircuits.blackbox import BlackBoxEngine
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.gradients import BLOCK_NUMBERS
from qpeft.qcircuits.ibm_runtime import LocalSeed, RuntimeJob
from qpeft.qcircuits.memory import require_bytes
from qpeft.qcircuits.retry import IncompleteResultError, Job, Retry
from qpeft.qcircuits.seeding import Purpose, Stream
from qpeft.qcircuits.shots import Shots
from qpeft.qcircuits.transpilation import REGISTER, require_backend, require_qubits, transpile

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2
    from qiskit.providers import BackendV2

Bits = npt.NDArray[np.uint8]
_PURPOSE = "the hardware engine"


class QiskitSamplerEngine(BlackBoxEngine):
    """Frequencies that a Qiskit sampler measures, on hardware or on a simulator.

    All circuits of a forward pass are one job, and so are all shifted circuits of its gradient. A job that fails, is
    lost or comes back incomplete is retried; see `Retry.run`. What would only fail again is not: bad input, which is a
    `TypeError` or `ValueError` of the submission itself, a job that takes longer than IBM's service lets it, a result
    with other bits or more shots than asked for. There is no limit to how long `job.result()` is waited for.

    The latest measurement is kept: the same circuit and angles under the same number of call (`draws.call`) are not
    measured again, so that equal parameters give equal weights even where the sampler itself cannot repeat.

    Args:
        sampler: Any `BaseSamplerV2`, e.g. `qiskit_ibm_runtime.SamplerV2(mode=backend)`.
        shots: Measurements of each circuit, e.g. 4096 or "10x" (10 * 2**N).
        backend: What to transpile for; the sampler's own if it says (`sampler.backend`), and no other then. Not needed
            for `qiskit.primitives.StatevectorSampler`, which takes any gate. For `qiskit_aer.primitives.SamplerV2`,
            give the `AerSimulator` or device that it simulates.
        diff_method: "parameter-shift" or "spsa".
        gradient_shots: Measurements of each circuit of a gradient; `shots` if None.
        seed: Decides SPSA's directions, and what is given to `reseed`.
        retries: Attempts after a failed one.
        backoff: Seconds before the first retry; doubled before each further one.
        sleep: Waits for so many seconds.
        reseed: Called before each job with a seed in 1 to 2**31, for a local simulator whose samples shall repeat; by
            default the sampler draws as it is set up. (`StatevectorSampler(seed=7)` draws equal numbers for each
            circuit of a job: give it `numpy.random.default_rng(7)`.)
        seed_transpiler: Decides what Qiskit's transpiler draws at random.

    Raises:
        ConfigError: No `BaseSamplerV2`, no shots, no way to know the gates of the device, or those of another device.

    Example:
        >>> import torch
        >>> from qiskit.primitives import StatevectorSampler
        >>> from qpeft.qcircuits import ansatz
        >>> engine = QiskitSamplerEngine(StatevectorSampler(), shots=100)
        >>> engine.probabilities(ansatz("ry_cnot", 2, 1), torch.tensor([0.0, 3.14159265]))
        tensor([0., 1., 0., 0.])
    """

    def __init__(
        self, sampler: BaseSamplerV2, shots: Shots | int | str, *, backend: BackendV2 | None = None,
        diff_method: str = "parameter-shift", gradient_shots: Shots | int | str | None = None, seed: int = 0,
        retries: int = 3, backoff: float = 10.0, sleep: Callable[[float], None] = time.sleep,
        reseed: Callable[[int], object] | None = None, seed_transpiler: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(Shots.of(shots), diff_method, gradient_shots, seed)
        self.sampler, self.backend = sampler, _backend_of(sampler, backend)
        self.retry, self.reseed, self.seed_transpiler = Retry(retries, backoff, sleep), reseed, seed_transpiler
        self._measured: dict[Purpose, tuple[tuple[object, ...], Bits]] = {}

    @classmethod
    def on_backend(
        cls, backend: BackendV2, shots: Shots | int | str, *, diff_method: str = "parameter-shift",
        gradient_shots: Shots | int | str | None = None, seed: int = 0, retries: int = 3, backoff: float = 10.0,
        seed_transpiler: int = 0,
    ) -> QiskitSamplerEngine:  # fmt: skip
        """The engine of `qiskit_ibm_runtime.SamplerV2(mode=backend)`, one job at a time.

        A `backend` of the cloud is real hardware; any other runs in the runtime's local mode, whose samples repeat.
        The local mode is for trying out the runtime's path: for each job it builds the noise of the whole device, which
        takes 15 s and more for 156 qubits. To simulate a device, use `AerEngine(backend=...)`, the engine `aer@DEVICE`.
        The arguments are those of the class.
        """
        runtime = require("qiskit_ibm_runtime", "ibm", _PURPOSE)
        sampler = runtime.SamplerV2(mode=backend)
        is_cloud = isinstance(backend, runtime.IBMBackend)
        return cls(
            sampler, shots, backend=backend, diff_method=diff_method, gradient_shots=gradient_shots, seed=seed,
            retries=retries, backoff=backoff, reseed=None if is_cloud else LocalSeed(sampler),
            seed_transpiler=seed_transpiler,
        )  # fmt: skip

    def evaluate(self, circuit: Circuit, angles: Tensor, shots: int | None, stream: Stream) -> Iterable[Tensor]:
        """See `BlackBoxEngine.evaluate`."""
        assert shots is not None  # required when made
        key = (stream, circuit, shots, tuple(angles.shape), angles.detach().cpu().double().numpy().tobytes())
        kept = self._measured.get(stream.purpose)
        if kept is None or kept[0] != key:
            kept = self._measured[stream.purpose] = (key, self._measure(circuit, angles, shots, stream))
        return frequencies_of_bits(kept[1], circuit.num_qubits)

    def _measure(self, circuit: Circuit, angles: Tensor, shots: int, stream: Stream) -> Bits:
        """One job: angles (B, P) -> packed outcomes (B, shots, bytes)."""
        transpiled = transpile(circuit, self.backend, seed=self.seed_transpiler)
        pubs: list[tuple[Any, ...]] = [(transpiled.circuit, transpiled.values(angles), shots)]
        if not transpiled.columns:  # Aer's sampler fills all rows but the first with zeros if there is nothing to bind
            pubs = [(transpiled.circuit, None, shots)] * len(angles)
        where = "" if self.backend is None else f" on {self.backend.name}"

        def submit() -> Job:
            if self.reseed is not None:
                self.reseed(stream.integer() + 1)  # 0 means no seed to some
            try:
                return RuntimeJob(self.sampler.run(pubs))
            except (TypeError, ValueError) as error:
                if isinstance(error, OSError):  # an answer of the network that is no JSON is both
                    raise
                raise EngineError(
                    f"{type(self.sampler).__name__} refuses the job{where}: {type(error).__name__}: {error}"
                ) from error

        def read(result: Any) -> Bits:
            return _outcomes(result, len(angles), shots, circuit.num_qubits)

        return self.retry.run(submit, read, f"{len(angles):,} circuit(s) of {shots:,} shots{where}")

    def check(self, circuit: Circuit, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        """Raises `EngineError` if the device has too few qubits or takes fewer shots, or memory is short."""
        require_qubits(circuit, self.backend)
        require_bytes(
            3 * dtype.itemsize << circuit.num_qubits, torch.device(device),
            f"frequencies of {circuit.num_qubits} qubits", "Use fewer qubits (for QPA: a larger chunk size)",
        )  # fmt: skip
        most = getattr(self.backend, "max_shots", None)
        for name, shots in self._shots().items():
            number = self._number(shots, circuit)
            if most is not None and number is not None and number > most:
                assert self.backend is not None
                raise EngineError(
                    f"{name} {shots} are {number:,} for {circuit.num_qubits} qubits; {self.backend.name} takes "
                    f"at most {most:,} a circuit. Use fewer"
                )

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "sampler": f"{type(self.sampler).__module__}.{type(self.sampler).__qualname__}",
            "backend": None if self.backend is None else self.backend.name,
            "retries": self.retry.retries,
            "seed_transpiler": self.seed_transpiler,
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> QiskitSamplerEngine:
        """Shares the sampler, which may be a connection to a device, and what it measured; counts its own calls."""
        twin = copy.copy(self)
        twin.draws = copy.deepcopy(self.draws, memo)
        return twin


def _backend_of(sampler: object, given: object) -> BackendV2 | None:
    """What to transpile for; raises `ConfigError` unless that is known."""
    primitives = require("qiskit.primitives", "qiskit", _PURPOSE)
    providers = require("qiskit.providers", "qiskit", _PURPOSE)
    if not isinstance(sampler, primitives.BaseSamplerV2):
        kind = sampler.__name__ + ", a class" if isinstance(sampler, type) else type(sampler).__name__
        raise ConfigError(
            f"the sampler is {kind}; expected an object that is a qiskit.primitives.BaseSamplerV2, e.g. "
            "qiskit_ibm_runtime.SamplerV2(mode=backend). Samplers of version 1 and Estimators are not"
        )
    own = getattr(sampler, "backend", None)
    if callable(own):  # a method in qiskit_ibm_runtime, a property in qiskit
        own = own()
    if given is None:
        given = own
        if given is None and isinstance(sampler, primitives.StatevectorSampler):
            return None
        if given is None:
            raise ConfigError(
                f"{type(sampler).__name__} does not say which device it runs on, and a circuit that is not transpiled "
                "for its device is not sent: give backend=, e.g. backend=AerSimulator() for a simulator of any gate"
            )
    backend = require_backend(given)
    # A device that was asked for twice is two objects of one name.
    if isinstance(own, providers.BackendV2) and own.name != backend.name:
        raise ConfigError(
            f"the backend is {backend.name}, but the sampler runs on {own.name}; leave backend= out, or make the "
            f"sampler for {backend.name}"
        )
    return backend


def _outcomes(result: Any, rows: int, shots: int, num_qubits: int) -> Bits:
    """The packed outcomes (rows, shots, bytes) in a result, if they are all there."""
    primitives = require("qiskit.primitives", "qiskit", _PURPOSE)
    found: list[Any] = [getattr(part.data, REGISTER, None) for part in result or ()]
    for measured in found:
        if not isinstance(measured, primitives.BitArray):
            raise EngineError(
                f"the sampler gives {type(measured).__name__} for the register {REGISTER!r} instead of a BitArray; "
                "set it up to return classified bits (meas_type)"
            )
        if measured.num_bits != num_qubits:
            raise EngineError(f"asked for outcomes of {num_qubits} bits, the result has {measured.num_bits}")
        _require_count(measured.num_shots, shots, "shots")
    _require_count(sum(measured.size for measured in found), rows, "circuits")
    return np.concatenate([measured.array.reshape(measured.size, shots, -1) for measured in found])


def _require_count(found: int, asked: int, what: str) -> None:
    """Fewer than asked for can be all of them the next time; more would be more again."""
    told = f"asked for {asked:,} {what}, the result has {found:,}"
    if found < asked:
        raise IncompleteResultError(told)
    if found > asked:
        raise EngineError(f"{told}; set the sampler up to run what it is given (twirling rounds shots up)")


def frequencies_of_bits(bits: Bits, num_qubits: int) -> Iterator[Tensor]:
    """Relative frequencies of packed outcomes, a block of rows at a time.

    Args:
        bits: Outcomes (B, shots, bytes), each a big-endian integer: a basis index.
        num_qubits: N.

    Yields:
        (b, 2**N), float64.

    Example:
        >>> bits = np.array([[[3], [0], [3], [3]]], dtype=np.uint8)
        >>> next(frequencies_of_bits(bits, 2))
        tensor([[0.2500, 0.0000, 0.0000, 0.7500]], dtype=torch.float64)
    """
    dim, shots = 2**num_qubits, bits.shape[1]
    weights = 256 ** np.arange(bits.shape[2])[::-1]
    step = max(1, BLOCK_NUMBERS // max(dim, shots))
    for start in range(0, len(bits), step):
        index = bits[start : start + step] @ weights  # (b, shots)
        flat = (index + dim * np.arange(len(index))[:, None]).ravel()
        counts = np.bincount(flat, minlength=len(index) * dim).reshape(len(index), dim)
        yield torch.from_numpy(counts / shots)
