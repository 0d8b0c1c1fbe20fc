"""What is particular to `qiskit_ibm_runtime`: what its errors say about a job, and the seed of its local mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qpeft.errors import EngineError
from qpeft.extras import is_installed, require
from qpeft.qcircuits.retry import Job

_NOT_FOUND = 404  # the status of HTTP


@dataclass(frozen=True)
class RuntimeJob:
    """A job whose errors mean what `Retry.run` takes them for; what other libraries raise passes unchanged.

    The runtime wraps all errors of the network in its own ones, which are no `OSError`.
    """

    job: Job

    def result(self) -> Any:
        """The result; raises `EngineError` if the job was stopped for its length, since it would be again."""
        try:
            return self.job.result()
        except _runtime_errors("RuntimeJobMaxTimeoutError") as error:
            raise EngineError(
                f"job {self.job.job_id()} took longer than it may: {error}. It would again: use fewer shots or smaller "
                "batches, diff_method 'spsa', or raise the sampler's options.max_execution_time"
            ) from error

    def job_id(self) -> str:
        return self.job.job_id()

    def done(self) -> bool:
        """Raises `ConnectionError` where the service says nothing about the job; so does `in_final_state`."""
        return self._ask(self.job.done)

    def in_final_state(self) -> bool:
        return self._ask(self.job.in_final_state)

    def _ask(self, question: Callable[[], bool]) -> bool:
        try:
            return question()
        except _runtime_errors("RuntimeJobNotFound"):
            raise
        except _runtime_errors("IBMError") as error:
            if getattr(error, "status_code", None) == _NOT_FOUND:
                raise
            raise ConnectionError(
                f"the service does not say how job {self.job.job_id()} is: {type(error).__name__}: {error}"
            ) from error


def _runtime_errors(name: str) -> tuple[type[Exception], ...]:
    """What to catch: the runtime's exception of that name, or nothing where the runtime is not installed."""
    if not is_installed("qiskit_ibm_runtime"):
        return ()
    found: type[Exception] = getattr(require("qiskit_ibm_runtime.exceptions", "ibm", "a job of the runtime"), name)
    return (found,)


@dataclass(frozen=True)
class LocalSeed:
    """Seeds the simulator behind a `qiskit_ibm_runtime.SamplerV2` in its local mode."""

    sampler: Any

    def __call__(self, number: int) -> None:
        self.sampler.options.simulator.seed_simulator = number
