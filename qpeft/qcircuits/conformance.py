"""The one suite that every engine passes, ours or yours.

It needs torch and numpy alone, and asks an engine nothing but what `Engine` promises.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qpeft.errors import ConfigError, EngineError, unknown_name
from qpeft.qcircuits.circuit import Circuit
from qpeft.qcircuits.conformance_cases import QUBITS, Case, cases
from qpeft.qcircuits.engine import Engine
from qpeft.qcircuits.gradients import shift_rule
from qpeft.qcircuits.shots import Shots
from qpeft.qcircuits.statevector import StatevectorEngine

Reference = Callable[[Circuit, npt.NDArray[np.float64]], npt.ArrayLike]
"""(circuit, angles (P,) in radians) -> probabilities (2**N,) in float64."""

BATCHES: tuple[tuple[tuple[int, ...], torch.dtype], ...] = (
    ((), torch.float64), ((3,), torch.float64), ((2, 2), torch.float32), ((0,), torch.float64), ((1,), torch.float32),
)  # fmt: skip
GRADIENTS = ("exact", "sampled", "stochastic")
FALSE_ALARMS = 1e-6  # the chance that a correct sampled engine fails, over all seeds and the whole suite
STEP = 1e-5  # radians; of the finite differences, right to about 1e-9


def assert_engine_conforms(
    engine: Engine, reference: Engine | Reference | None = None, tolerance: float = 1e-6, *,
    shots: Shots | int | str | None = None, gradient: Literal["exact", "sampled", "stochastic"] = "exact",
    gradient_shots: Shots | int | str | None = None, max_qubits: int = QUBITS[-1], device: torch.device | str = "cpu",
) -> float:  # fmt: skip
    """Checks all that `Engine` promises, on many circuits, and reports every failure at once.

    Circuits: each registered ansatz, a circuit that is not symmetric under bit reversal, a random one with every gate
    of the table, shared, affine and constant angles and a parameter that acts nowhere, one without parameters and
    one without operations, each on 1, 2, 3 and 5 qubits and with batches of shape (), (3,), (2, 2), (0,) and (1,).

    Checks: probabilities against the reference, their sum, sign, shape, dtype and device; gradients against finite
    differences of the reference; a second backward; no graph where none is asked for; a deep copy that answers alike;
    `describe` as JSON; `EngineError` for angles of a wrong shape or dtype.

    Measured frequencies f of a probability p pass while `shots * KL(f || p) <= ln(2 K / 1e-6)`, where K is the number
    of comparisons of the whole suite (Chernoff's bound, which is sharp for small p as well, and a union bound): a
    correct engine fails with a chance of at most 1e-6. They must be multiples of 1 / shots, and two calls must differ.
    Sampled gradients are held to Hoeffding's bound, at that rate: with fewer than about 1000 shots it sees wrong signs,
    but not a wrong factor. The ansätze are differentiated on 3 qubits, the other circuits on every size.

    Args:
        engine: The engine.
        reference: What is right: an engine, or (circuit, angles (P,) float64 numpy) -> probabilities.
            `StatevectorEngine` if None.
        tolerance: Largest absolute deviation of a probability or a gradient, beside that of sampling.
        shots: Measurements of each circuit; None if the engine gives exact probabilities.
        gradient: "exact"; "sampled" for parameter-shift with finite shots; "stochastic" for a random direction (SPSA),
            of which only shape, dtype, finiteness and repetition are checked.
        gradient_shots: Measurements of each circuit of a sampled gradient; `shots` if None.
        max_qubits: Leaves out larger circuits; for an engine on which they are dear.
        device: Where the angles are.

    Returns:
        The largest deviation of a probability.

    Raises:
        AssertionError: The engine fails; the message names each case with its largest deviation.
        ConfigError: An unknown kind of gradient, "sampled" without shots, or no circuit small enough.

    Example:
        >>> assert_engine_conforms(StatevectorEngine("backprop")) < 1e-6
        True
        >>> from qpeft.qcircuits import SampledEngine
        >>> engine = SampledEngine(StatevectorEngine(), shots="10x", diff_method="parameter-shift")
        >>> deviation = assert_engine_conforms(engine, shots="10x", gradient="sampled", max_qubits=2)
    """
    if gradient not in GRADIENTS:
        raise ConfigError(unknown_name("kind of gradient", gradient, GRADIENTS))
    if gradient_shots is None:
        gradient_shots = shots
    if gradient == "sampled" and gradient_shots is None:
        raise ConfigError("gradient='sampled' needs shots: the number of measurements bounds the gradient's error")
    if max_qubits < 1:
        raise ConfigError(f"max_qubits is {max_qubits}; at least 1 is needed")
    suite = _Suite(
        engine, _as_function(reference or StatevectorEngine()), tolerance,
        None if shots is None else Shots.of(shots), gradient,
        None if gradient_shots is None else Shots.of(gradient_shots),
        torch.device(device), [case for n in QUBITS if n <= max_qubits for case in cases(n)],
    )  # fmt: skip
    suite.run()
    if suite.failures:
        raise AssertionError(
            f"{type(engine).__name__} does not conform; it fails {len(suite.failures)} checks, and a probability "
            f"deviates by up to {suite.deviation:.3g}:\n- " + "\n- ".join(suite.failures)
        )
    return suite.deviation


def _as_function(reference: Engine | Reference) -> Reference:
    if not isinstance(reference, Engine):
        return reference
    engine = reference

    def right(circuit: Circuit, angles: npt.NDArray[np.float64]) -> npt.ArrayLike:
        return engine.probabilities(circuit, torch.from_numpy(angles)).detach().numpy()

    return right


@dataclass
class _Suite:
    engine: Engine
    reference: Reference
    tolerance: float
    shots: Shots | None
    gradient: str
    gradient_shots: Shots | None
    device: torch.device
    cases: list[Case]
    failures: list[str] = field(default_factory=list)
    deviation: float = 0.0

    def run(self) -> None:
        for case in self.cases:
            with self._named(case.name):
                self._check_probabilities(case)
            if case.differentiate:
                with self._named(f"{case.name}, gradient"):
                    self._check_gradient(case)
        case = next(c for c in reversed(self.cases) if c.name.startswith("random"))
        for name, check in (
            ("graph", self._check_graph), ("deepcopy", self._check_deepcopy), ("errors", self._check_errors),
            ("sampling", self._check_sampling),
        ):  # fmt: skip
            with self._named(f"{case.name}, {name}"):
                check(case)
        with self._named("describe"):
            described = self.engine.describe()
            self._expect(
                json.loads(json.dumps(described)) == described, "describe() is other data after a round trip of JSON"
            )

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Gathers whatever goes wrong into a line of the report, so that one failure hides no other."""
        before = len(self.failures)
        try:
            yield
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        if self.failures[before:]:
            self.failures[before:] = [f"{name}: {'; '.join(self.failures[before:])}"]

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.failures.append(otherwise)

    @cached_property
    def _log_odds(self) -> float:
        """ln(2 K / alpha) of a two-sided test at rate alpha in all, K comparisons."""
        rows = sum(math.prod(shape) for shape, _ in BATCHES)
        values = sum(rows << case.circuit.num_qubits for case in self.cases)
        slopes = sum(3 * case.circuit.num_parameters for case in self.cases if case.differentiate)
        return math.log(2 * (values + slopes) / FALSE_ALARMS)

    def _angles(self, case: Case, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
        points = torch.from_numpy(case.points[: math.prod(shape)]).to(self.device, dtype)
        return points.view(*shape, case.circuit.num_parameters)

    def _right(self, case: Case, points: npt.NDArray[np.float64]) -> Tensor:
        """(B, P) -> (B, 2**N)."""
        right = [np.asarray(self.reference(case.circuit, point), dtype=np.float64) for point in points]
        return torch.from_numpy(np.stack(right))

    def _check_probabilities(self, case: Case) -> None:
        right = self._right(case, case.points)
        dim = 2**case.circuit.num_qubits
        for shape, dtype in BATCHES:
            with self._named(f"batch {shape} of {dtype}"):
                self.engine.check(case.circuit, dtype, self.device)
                angles = self._angles(case, shape, dtype)
                given = self.engine.probabilities(case.circuit, angles)
                if not self._is_like(given, angles, (*shape, dim)) or not given.numel():
                    continue
                values = given.detach().to("cpu", torch.float64).reshape(-1, dim)
                self._expect(bool(values.isfinite().all()), "probabilities are not finite")
                lowest, excess = float(values.min()), float((values.sum(-1) - 1).abs().max())
                self._expect(lowest >= -self.tolerance, f"a probability is {lowest:.3g}")
                self._expect(excess <= dim * self.tolerance, f"probabilities miss the sum 1 by {excess:.3g}")
                self._compare(values, right[: len(values)])

    def _is_like(self, given: Tensor, angles: Tensor, shape: tuple[int, ...]) -> bool:
        expected = (shape, angles.dtype, angles.device)
        got = (tuple(given.shape), given.dtype, given.device)
        self._expect(got == expected, f"the answer is {got}, expected {expected}")
        return got == expected

    def _compare(self, values: Tensor, right: Tensor) -> None:
        deviation = float((values - right).abs().max())
        self.deviation = max(self.deviation, deviation)
        if self.shots is None:
            self._expect(deviation <= self.tolerance, f"probabilities deviate by {deviation:.3g} from the reference")
            return
        shots = self.shots.number(right.shape[-1].bit_length() - 1)
        counts = values * shots
        apart = float((counts - counts.round()).abs().max())
        self._expect(apart <= max(1e-3, 1e-6 * shots), f"frequencies are no multiples of 1 / {shots}")
        near = torch.maximum(torch.minimum(values, right + self.tolerance), right - self.tolerance).clamp(0, 1)
        surprise = shots * (_xlogy(values, near) + _xlogy(1 - values, 1 - near))
        self._expect(
            bool((surprise <= self._log_odds).all()),
            f"frequencies of {shots} shots deviate by {deviation:.3g} from the reference, more than sampling explains",
        )

    def _check_gradient(self, case: Case) -> None:
        dim = 2**case.circuit.num_qubits
        cotangent = torch.from_numpy(np.random.default_rng(dim).uniform(-1, 1, (2, dim)))
        right = self._slope(case, cotangent)
        for shape, dtype in (((2,), torch.float64), ((), torch.float32)):
            with self._named(f"batch {shape} of {dtype}"):
                angles = self._angles(case, shape, dtype).requires_grad_()
                upstream = cotangent[: math.prod(shape)].to(angles).view(*shape, dim)
                given = self.engine.probabilities(case.circuit, angles)
                self._expect(given.requires_grad, "the answer is detached from the angles")
                first, second = (
                    torch.autograd.grad(given, angles, upstream, retain_graph=keep)[0] for keep in (True, False)
                )
                if not self._is_like(first, angles, tuple(angles.shape)) or not first.numel():
                    continue
                self._expect(bool(first.isfinite().all()), "the gradient is not finite")
                again = float((first - second).abs().max())
                self._expect(again <= self.tolerance, f"a second backward differs by {again:.3g}")
                if self.gradient != "stochastic":
                    slope = first.detach().to("cpu", torch.float64).reshape(-1, angles.shape[-1])
                    misses = (slope - right[: len(slope)]).abs()
                    allowed = self.tolerance + self._spread(case.circuit, cotangent[: len(slope)])
                    self._expect(
                        bool((misses <= allowed).all()),
                        f"the gradient deviates by {float(misses.max()):.3g} from finite differences of the reference",
                    )

    def _slope(self, case: Case, cotangent: Tensor) -> Tensor:
        """Finite differences of <cotangent, reference> at the first points: (B, 2**N) -> (B, P)."""
        points, count = case.points[: len(cotangent)], case.circuit.num_parameters
        if not count:
            return torch.zeros(len(cotangent), 0, dtype=torch.float64)
        moves = STEP * np.concatenate([np.eye(count), -np.eye(count)])
        values = self._right(case, (points[:, None] + moves).reshape(-1, count)).view(len(points), 2, count, -1)
        return ((values[:, 0] - values[:, 1]) * cotangent[:, None]).sum(-1) / (2 * STEP)

    def _spread(self, circuit: Circuit, cotangent: Tensor) -> Tensor:
        """Hoeffding's bound on the error of a sampled parameter-shift gradient, (B, P); 0 if it is exact."""
        if self.gradient != "sampled" or self.gradient_shots is None:
            return torch.zeros(())
        squares = torch.zeros(circuit.num_parameters, dtype=torch.float64)
        for operation in circuit.operations:
            if operation.angle is not None and operation.angle.index is not None:
                terms = sum(2 * coefficient**2 for _, coefficient in shift_rule(operation.gate))
                squares[operation.angle.index] += terms * operation.angle.scale**2
        width = cotangent.amax(-1) - cotangent.amin(-1)  # every shot adds one entry of the cotangent
        shots = self.gradient_shots.number(circuit.num_qubits)
        return width[:, None] * (squares * self._log_odds / (2 * shots)).sqrt()

    def _check_graph(self, case: Case) -> None:
        angles = self._angles(case, (3,))
        plain = self.engine.probabilities(case.circuit, angles)
        self._expect(not plain.requires_grad, "the answer needs a gradient although the angles do not")
        with torch.no_grad():
            plain = self.engine.probabilities(case.circuit, angles.requires_grad_())
        self._expect(not plain.requires_grad, "the answer needs a gradient under torch.no_grad()")

    def _check_sampling(self, case: Case) -> None:
        if self.shots is None:
            return
        angles = self._angles(case, (1,)).expand(64, -1)  # so many rows that two samples agree with no chance
        one, other = (self.engine.probabilities(case.circuit, angles).detach() for _ in range(2))
        self._expect(not torch.equal(one, other), "two calls give the same sample")

    def _check_deepcopy(self, case: Case) -> None:
        twin, angles = copy.deepcopy(self.engine), self._angles(case, (3,))
        one, other = (engine.probabilities(case.circuit, angles).detach() for engine in (self.engine, twin))
        apart = float((one - other).abs().max())
        self._expect(apart <= self.tolerance, f"a deep copy answers otherwise, by {apart:.3g}")

    def _check_errors(self, case: Case) -> None:
        angles = self._angles(case, (3,))
        wrong = {
            "one angle too many": torch.cat([angles, angles[:, :1]], dim=-1),
            "one angle too few": angles[:, 1:],
            "integer angles": angles.long(),
            "a tensor without axes": angles[0, 0],
        }
        for name, given in wrong.items():
            try:
                self.engine.probabilities(case.circuit, given)
            except EngineError:
                continue
            except Exception as error:
                self._expect(False, f"{name}: {type(error).__name__} instead of EngineError: {error}")
            else:
                self._expect(False, f"{name}: no EngineError")


def _xlogy(x: Tensor, y: Tensor) -> Tensor:
    """X ln(x / y), 0 where x is 0."""
    return torch.xlogy(x, x) - torch.xlogy(x, y)
