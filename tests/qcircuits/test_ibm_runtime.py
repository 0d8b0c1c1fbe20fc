"""The errors are those that qiskit-ibm-runtime itself raises for the answers of a service that is played here."""

import pytest
from qiskit_ibm_runtime import RuntimeJobV2
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.exceptions import IBMNotAuthorizedError, RuntimeJobMaxTimeoutError, RuntimeJobNotFound

from qpeft import extras
from qpeft.errors import EngineError, JobError
from qpeft.qcircuits import ibm_runtime
from qpeft.qcircuits.ibm_runtime import RuntimeJob
from qpeft.qcircuits.retry import Retry

OFFLINE = RequestsApiError("Max retries exceeded with url")  # no status, for there was no answer
GONE = RequestsApiError("404 Client Error: Not Found. Job not found.", 404)


class Service:
    """Answers questions after jobs with each of `answers` in turn, which are states or errors; the last one stays."""

    def __init__(self, *answers, reason_code=None):
        self.answers, self.reason_code, self.submitted = list(answers), reason_code, 0

    def job_get(self, job_id, exclude_params=True):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {"state": {"status": answer, "reason": "so it is", "reason_code": self.reason_code}}

    def job_results(self, job_id):
        return '{"found": 7}'

    def submit(self):
        self.submitted += 1
        return RuntimeJob(RuntimeJobV2(None, self, f"job-{self.submitted}", "sampler", None))

    def run(self):
        return Retry(3, sleep=lambda seconds: None).run(self.submit, lambda result: result["found"], "5 circuits")


@pytest.mark.parametrize("silence", [OFFLINE, RequestsApiError("502 Bad Gateway", 502), IBMNotAuthorizedError("401")])
def test_a_job_is_kept_while_the_service_says_nothing_about_it(silence):
    service = Service("RUNNING", silence, silence, "COMPLETED")
    assert (service.run(), service.submitted) == (7, 1)


def test_a_network_that_stays_away_loses_the_one_job():
    service = Service(OFFLINE)
    with pytest.raises(
        JobError, match=r"\(job job-1\).*ConnectionError: the service does not say how job job-1 is: Requ"
    ):
        service.run()
    assert service.submitted == 1


@pytest.mark.parametrize("answer", ["FAILED", "CANCELLED", GONE, RuntimeJobNotFound("no such job")])
def test_a_job_that_failed_or_is_unknown_is_submitted_anew(answer):
    questions = 1 if isinstance(answer, str) else 2  # a final state is kept by the job and not asked for again
    service = Service(*[answer] * questions, "COMPLETED")
    assert (service.run(), service.submitted) == (7, 2)


def test_a_job_that_takes_longer_than_it_may_is_not_submitted_again():
    service = Service("FAILED", reason_code=1305)
    with pytest.raises(EngineError, match=r"job job-1 took longer than it may: .*use fewer shots") as caught:
        service.run()
    assert not isinstance(caught.value, JobError) and service.submitted == 1
    assert isinstance(caught.value.__cause__, RuntimeJobMaxTimeoutError)


def test_without_the_runtime_errors_pass(monkeypatch):
    class Foreign:
        def result(self):
            raise LookupError("lost")

        done = in_final_state = result

    def missing(*modules):
        return not modules[0].startswith("qiskit_ibm_runtime") and extras.is_installed(*modules)

    monkeypatch.setattr(ibm_runtime, "is_installed", missing)
    job = RuntimeJob(Foreign())
    for question in (job.result, job.done, job.in_final_state):
        with pytest.raises(LookupError, match="lost"):
            question()
