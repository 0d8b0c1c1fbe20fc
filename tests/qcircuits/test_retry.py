import logging

import pytest

from qpeft.errors import ConfigError, EngineError, JobError
from qpeft.qcircuits.retry import IncompleteResultError, Retry


class FakeJob:
    """Answers `result()` with each of `answers` in turn, and questions after its status if they are a list; an
    exception is raised.
    """

    def __init__(self, name, answers, status="ERROR"):
        self.name, self.answers, self.status = name, iter(answers), status

    def result(self):
        answer = next(self.answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def job_id(self):
        return self.name

    def _state(self):
        status = self.status.pop(0) if isinstance(self.status, list) else self.status
        if isinstance(status, Exception):
            raise status
        return status

    def done(self):
        return self._state() == "DONE"

    def in_final_state(self):
        return self._state() in ("DONE", "ERROR", "CANCELLED")


class Device:
    """Gives the jobs out one by one, or raises what stands in a job's place."""

    def __init__(self, *jobs):
        self.jobs, self.submitted, self.slept = iter(jobs), 0, []

    def submit(self):
        self.submitted += 1
        job = next(self.jobs)
        if isinstance(job, BaseException):
            raise job
        return job

    def run(self, read=lambda result: result, retries=3):
        return Retry(retries, 1.5, self.slept.append).run(self.submit, read, "5 circuits")


def failing(name="a", status="ERROR"):
    return FakeJob(name, [RuntimeError("no coolant")], status)


def test_a_job_that_works_is_run_once():
    device = Device(FakeJob("a", [7]))
    assert (device.run(), device.submitted, device.slept) == (7, 1, [])


def test_failed_jobs_and_submissions_are_tried_again_with_doubled_delays(caplog):
    device = Device(failing("job-1"), ConnectionError("no network"), failing("job-3"), FakeJob("job-4", [7]))
    with caplog.at_level(logging.WARNING):
        assert device.run() == 7
    assert device.submitted == 4 and device.slept == [1.5, 3, 6]
    assert [record.getMessage() for record in caplog.records] == [
        "attempt 1 of 4 failed for 5 circuits (job job-1): RuntimeError: no coolant. Trying again in 1.5 s",
        "attempt 2 of 4 failed for 5 circuits: ConnectionError: no network. Trying again in 3 s",
        "attempt 3 of 4 failed for 5 circuits (job job-3): RuntimeError: no coolant. Trying again in 6 s",
    ]


def test_what_was_lost_is_said():
    device = Device(failing("job-1"), failing("job-2"))
    with pytest.raises(JobError) as caught:
        device.run(retries=1)
    assert str(caught.value) == (
        "lost: 5 circuits (job job-2). 2 attempt(s) failed, the last one with RuntimeError: no coolant. "
        "Jobs given up before: job-1. "
        "Training goes on from its last checkpoint: give the same command with --resume"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert device.slept == [1.5]


@pytest.mark.parametrize("status", ["RUNNING", "DONE"])
def test_a_job_whose_result_did_not_arrive_is_asked_again_and_not_paid_for_twice(status):
    device = Device(FakeJob("a", [ConnectionError("no network"), 7], status))
    assert (device.run(), device.submitted) == (7, 1)


def test_a_job_of_which_the_service_says_nothing_is_kept():
    """It is perhaps done, and paid for."""
    lost = ConnectionError("no network")
    device = Device(FakeJob("a", [lost, 7], [lost, "DONE"]), FakeJob("b", [8]))
    assert (device.run(), device.submitted, device.slept) == (7, 1, [1.5, 3])


def test_silence_of_the_service_counts_as_attempts():
    device = Device(FakeJob("a", [ConnectionError("no network")], TimeoutError("no answer")), FakeJob("b", [8]))
    with pytest.raises(
        JobError, match=r"\(job a\). 3 attempt\(s\) failed, the last one with TimeoutError: no answer\. T"
    ):
        device.run(retries=2)
    assert device.submitted == 1


def test_every_job_that_was_given_up_is_named():
    def read(result):
        raise IncompleteResultError("too few shots")

    device = Device(FakeJob("a", [9]), failing("b"), ConnectionError("no network"), failing("d", "CANCELLED"))
    with pytest.raises(JobError, match=r"5 circuits \(job d\).*Jobs given up before: a, b\. "):
        device.run(read)


@pytest.mark.parametrize("status", ["ERROR", "CANCELLED", RuntimeError("job not found")])
def test_a_job_that_will_not_answer_is_submitted_anew(status):
    device = Device(failing("a", status), FakeJob("b", [7]))
    assert (device.run(), device.submitted) == (7, 2)


def test_an_incomplete_result_is_measured_anew():
    def read(result):
        if result < 10:
            raise IncompleteResultError("too few shots")
        return result

    device = Device(FakeJob("a", [9, 10], "DONE"), FakeJob("b", [11], "DONE"))
    assert (device.run(read), device.submitted) == (11, 2)


def test_bad_input_is_not_tried_again():
    device = Device(EngineError("no such gate"), FakeJob("b", [7]))
    with pytest.raises(EngineError, match="no such gate"):
        device.run()
    assert device.submitted == 1 and device.slept == []


@pytest.mark.parametrize("job", [KeyboardInterrupt(), FakeJob("a", [KeyboardInterrupt()], "RUNNING")])
def test_an_interrupt_is_not_swallowed(job):
    device = Device(job, FakeJob("b", [7]))
    with pytest.raises(KeyboardInterrupt):
        device.run()
    assert device.submitted == 1


@pytest.mark.parametrize("given", [{"retries": -1}, {"retries": 1.5}, {"backoff": -1}, {"backoff": float("nan")}])
def test_bad_settings_are_refused(given):
    with pytest.raises(ConfigError, match=next(iter(given))):
        Retry(**given)
