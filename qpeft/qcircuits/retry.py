"""Runs a job that may fail or get lost: again, with exponential back-off, a stated number of times."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from qpeft.errors import ConfigError, EngineError, JobError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Job(Protocol):
    """What is asked of a job; Qiskit's `BasePrimitiveJob` answers all of it.

    `done` and `in_final_state` raise an `OSError` (as `requests` does) where the service cannot be reached, and another
    exception where it does not know the job.
    """

    def result(self) -> Any: ...
    def job_id(self) -> str: ...
    def done(self) -> bool: ...
    def in_final_state(self) -> bool: ...


class IncompleteResultError(Exception):
    """A result with less in it than was asked for; raised by `read` of `Retry.run`."""


@dataclass(frozen=True)
class Retry:
    """How often a job is tried again, and after how long.

    Attributes:
        retries: Attempts after the first one.
        backoff: Seconds before the first of them; doubled before each further one.
        sleep: Waits for so many seconds.

    Raises:
        ConfigError: Fewer than 0 retries, or less than 0 seconds.

    Example:
        >>> Retry(retries=3, backoff=10).delays
        (10, 20, 40)
    """

    retries: int = 3
    backoff: float = 10.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise ConfigError(f"retries is {self.retries!r}; it must be a whole number of at least 0")
        if not 0 <= self.backoff < float("inf"):
            raise ConfigError(f"backoff is {self.backoff!r}; it must be a number of seconds, at least 0")

    @property
    def delays(self) -> tuple[float, ...]:
        """Seconds before each retry."""
        return tuple(self.backoff * 2**i for i in range(self.retries))

    def run(self, submit: Callable[[], Job], read: Callable[[Any], T], what: str) -> T:
        """What `read` makes of the job's result.

        A job that still runs, or is done, after its result could not be fetched is asked again and not paid for twice;
        so is one of which the service, out of reach, says nothing. One that failed, was cancelled, is unknown or came
        back incomplete is submitted anew. An `EngineError` of `submit`, the job or `read` is raised at once, since it
        would come again; so is whatever is no `Exception`, such as `KeyboardInterrupt`.

        Args:
            submit: Starts the job.
            read: Takes its result, or raises `IncompleteResultError`.
            what: What the job measures, for messages.

        Raises:
            JobError: Every attempt failed; its cause is that of the last one, and it names every job submitted.
        """
        job: Job | None = None
        abandoned: list[str] = []
        attempts = self.retries + 1
        for attempt, delay in enumerate((*self.delays, None), start=1):
            try:
                if job is not None and not _may_still_answer(job):
                    abandoned.append(job.job_id())
                    job = None  # so that a failed submission does not go by the id of the job before
                if job is None:
                    job = submit()
                return read(job.result())
            except EngineError:
                raise
            except Exception as error:
                named = "" if job is None else f" (job {job.job_id()})"
                reason = f"{type(error).__name__}: {error}"
                if delay is None:
                    before = f"Jobs given up before: {', '.join(abandoned)}. " if abandoned else ""
                    raise JobError(
                        f"lost: {what}{named}. {attempts} attempt(s) failed, the last one with {reason}. {before}"
                        "Training goes on from its last checkpoint: give the same command with --resume"
                    ) from error
                if isinstance(error, IncompleteResultError) and job is not None:
                    abandoned.append(job.job_id())
                    job = None
                logger.warning(
                    "attempt %d of %d failed for %s%s: %s. Trying again in %g s",
                    attempt, attempts, what, named, reason, delay,
                )  # fmt: skip
                self.sleep(delay)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _may_still_answer(job: Job) -> bool:
    try:
        return job.done() or not job.in_final_state()
    except OSError:  # silence says nothing about a job that is perhaps done and paid for
        raise
    except Exception:  # the service does not know it
        return False
