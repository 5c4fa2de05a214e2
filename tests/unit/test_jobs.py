"""Jobs in the SDK, the magics and on the command line, against a stand-in backend."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from nbgpu import errors
from nbgpu.client import connect
from nbgpu.submission import body, failure, is_job, told

from tests.support.api import Api, until
from tests.unit.test_magics import complete, interrupt_when, run
from tests.unit.test_results import EVIL, check
from tests.unit.test_verbs import call

UNKNOWN = "0199d3c0-5a7e-7abc-8def-0123456789ab-u1"


@pytest.fixture
def work(api: Api) -> Any:
    return connect().deploy("Org/M", name="work")


def fail(given: Any) -> Any:
    raise RuntimeError("out of " + str(given))


def test_a_job_gives_its_output(api: Api, work: Any) -> None:
    api.jobs.handler = lambda given: given["n"] + 1
    job = work.run({"n": 1})
    assert job.result() == 2 and job.status == "COMPLETED" and job.done and job.output == 2
    assert work.runsync({"n": 2}) == 3
    assert list(work.jobs()["state"]) == ["COMPLETED", "COMPLETED"]
    assert work.jobs("failed").empty and work.jobs(limit=1)["id"][0] != job.id
    assert connect().job(job.id).result() == 2
    with pytest.raises(errors.UsageProblem, match="no job but an endpoint"):
        connect().job("work")


def test_seconds_become_milliseconds_on_the_wire(api: Api, work: Any) -> None:
    work.run(1, webhook="http://127.0.0.1/x", execution_timeout=30, ttl="2h", low_priority=True)
    assert api.jobs.bodies[0] == {
        "input": 1, "webhook": "http://127.0.0.1/x",
        "policy": {"executionTimeout": 30_000, "ttl": 7_200_000, "lowPriority": True},
    }  # fmt: skip
    assert body(None) == {"input": None}
    for options in ({"ttl": 5}, {"execution_timeout": "8d"}, {"ttl": "soon"}):
        with pytest.raises(errors.UsageProblem):
            body(1, **options)  # type: ignore[arg-type]


def test_a_failed_job_raises_its_error(api: Api, work: Any) -> None:
    api.jobs.handler = fail
    with pytest.raises(
        errors.JobFailed, match=r"RuntimeError: out of 3\..* See %gpu show"
    ) as found:
        work.runsync(3)
    assert found.value.state == "FAILED" and is_job(found.value.job)
    job = work.run(3)
    assert until(lambda: job.done)
    api.jobs.handler = lambda given: "better"
    assert job.retry().result() == "better"


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ("TIMED_OUT", errors.JobTimedOut, "timed out: It was not done. Try it again with: %gpu retry j"),
        ("CANCELLED", errors.JobCancelled, "was cancelled"),
        ("FAILED", errors.JobFailed, "failed: It was not done. See %gpu show j"),
    ],
)  # fmt: skip
def test_each_end_has_its_error(state: str, kind: type[errors.JobFailed], said: str) -> None:
    found = failure("j", state, "It was not done.")
    assert type(found) is kind and said in str(found)


def test_the_traceback_of_a_handler_is_told_in_one_line() -> None:
    raised = {
        "error_type": "<class 'builtins.ValueError'>",
        "error_message": "no",
        "error_traceback": "…",
    }
    assert told(json.dumps(raised)) == "ValueError: no"
    assert told("plain") == "plain" and told('{"a": 1}') == '{"a": 1}'


def test_waiting_for_a_result_has_an_end_and_the_job_goes_on(api: Api, work: Any) -> None:
    api.jobs.hold()
    job = work.run(1)
    with pytest.raises(errors.JobPending, match="goes on in the backend") as found:
        job.result(timeout=0.1)
    assert isinstance(found.value, TimeoutError) and found.value.job == job.id
    api.seen.clear()
    interrupt_when(lambda: any("status-sync" in path for _, path in api.seen))
    with pytest.raises(errors.Interrupted, match=f"goes on.*%gpu cancel {job.id}"):
        job.result()
    assert job.status == "IN_QUEUE"
    api.jobs.let_go()
    assert job.result() == 1


def test_a_cancelled_job_says_so(api: Api, work: Any) -> None:
    api.jobs.hold()
    job = work.run(1).cancel()
    assert job.status == "CANCELLED"
    for read in (job.result, lambda: list(job.stream())):
        with pytest.raises(errors.JobCancelled):
            read()


def test_pieces_come_as_they_are_yielded(api: Api, work: Any) -> None:
    step = threading.Event()

    def handler(given: Any) -> Any:
        return (f"{given}{n}" for n in range(3))

    api.jobs.handler = handler
    assert list(work.stream("x")) == ["x0", "x1", "x2"]
    step.set()
    api.jobs.handler = fail
    with pytest.raises(errors.JobFailed, match="out of y"):
        list(work.stream("y"))


def test_a_job_shows_its_timeline_escaped(api: Api, work: Any) -> None:
    api.jobs.handler = lambda given: EVIL
    job = work.run({"prompt": EVIL})
    job.result()
    check(job)
    text = repr(job)
    assert "is COMPLETED" in text and "given to w1" in text and "INFO <line>" in text
    for view in (
        work._client.ls("jobs"),
        work._client.why(job.id),
        work.map([EVIL], {"a": "{{text}}"}),
    ):
        check(view)


def test_a_handle_of_a_job_that_is_gone_still_shows_itself(api: Api, work: Any) -> None:
    job = work.run(1)
    job.result()
    api.jobs.forget(job.id)
    assert "There is no job" in repr(job) and "There is no job" in job._repr_html_()


# verbs


def test_ls_takes_a_kind_and_filters() -> None:
    assert call("ls").path == call("ls", "endpoints").path == "/nbgpu/v1/summary"
    made = call("ls", "jobs", endpoint="work", state=["failed", "IN-QUEUE", "running"], limit=5)
    assert made.params == {"limit": 5, "endpoint": "work",
                           "state": ["FAILED", "IN_QUEUE", "IN_PROGRESS"]}  # fmt: skip
    for arguments, options, said in (
        (("job",), {}, "no list of job. Did you mean jobs?"),
        (("pots",), {}, "There are: pods, endpoints, jobs"),
        ((), {"endpoint": "work"}, "ls jobs --endpoint NAME"),
        (("jobs",), {"state": ["faild"]}, "Did you mean FAILED?"),
        (("jobs",), {"limit": 0}, "from 1 to 10000"),
    ):
        with pytest.raises(errors.UsageProblem) as found:
            call("ls", *arguments, **options)
        assert said in str(found.value)


def test_verbs_tell_jobs_and_endpoints_apart() -> None:
    assert call("show", UNKNOWN).path == f"/nbgpu/v1/jobs/{UNKNOWN}"
    assert call("show", "sync-" + UNKNOWN).view == "job" and call("show", "work").view == "endpoint"
    assert call("why", UNKNOWN).follow == "why_job" and call("why", "work").view == "why"
    assert call("cancel", "work", queued=True).path == "/v2/work/purge-queue"
    for arguments, options, said in (
        (("work",), {}, "%gpu cancel work --queued"),
        ((UNKNOWN,), {"queued": True}, "takes an endpoint"),
    ):
        with pytest.raises(errors.UsageProblem) as found:
            call("cancel", *arguments, **options)
        assert said in str(found.value)
    with pytest.raises(errors.UsageProblem, match="no id of a job"):
        call("retry", "work")


def test_a_day_with_jobs_in_a_notebook(api: Api, shell: Any, work: Any, capsys: Any) -> None:
    assert "No such job of work" in run(shell, "%gpu ls jobs --endpoint work").text()
    api.jobs.hold()
    job = work.run({"a": 1})
    assert "○ IN_QUEUE" in run(shell, "%gpu ls jobs").text()
    why = run(shell, f"%gpu why {job.id}").text()
    assert f"job {job.id} waits for a worker since" in why and "work is asleep" in why
    run(shell, f"%gpu cancel {job.id}")
    assert f"job {job.id} is cancelled." in capsys.readouterr().out
    assert list(run(shell, "%gpu ls jobs --state cancelled")) == [job.id]
    run(shell, f"%gpu cancel {job.id}")
    for _ in range(3):
        work.run(1)
    assert run(shell, "%gpu cancel work --queued").text() == "3 queued jobs of work are cancelled."
    assert "work: 3 jobs wait; cancelling" in capsys.readouterr().out
    api.jobs.let_go()
    api.jobs.handler = fail
    bad = work.run("x")
    assert until(lambda: bad.done)
    assert "RuntimeError: out of x" in run(shell, f"%gpu show {bad.id}").text()
    api.jobs.handler = lambda given: given
    assert run(shell, f"%gpu retry {bad.id}").result() == "x"
    assert "in the queue of work again" in capsys.readouterr().out
    for verb, said in (("retry", "only what failed or timed out"), ("cancel", "nothing to cancel")):
        done = shell.run_cell(f"%gpu {verb} {bad.id}")
        assert isinstance(done.error_in_exec, errors.Conflict) and said in str(done.error_in_exec)
        assert "is COMPLETED, since" in str(done.error_in_exec)


def test_an_unknown_job_is_one_sentence_with_the_one_that_was_meant(
    api: Api, shell: Any, work: Any
) -> None:
    job = work.run(1)
    typo = job.id.replace("-u1", "-u2")
    for verb in ("show", "why", "cancel", "retry"):
        done = shell.run_cell(f"%gpu {verb} {typo}")
        assert isinstance(done.error_in_exec, errors.NotFound)
        assert f"There is no job {typo}. Did you mean {job.id}?" in str(done.error_in_exec)
    done = shell.run_cell(f"%gpu show {UNKNOWN}")
    assert "Did you mean" not in str(done.error_in_exec)


def test_jobs_are_completed(api: Api, shell: Any, work: Any) -> None:
    job = work.run(1)
    assert complete(shell, "%gpu cancel " + job.id[:3]) == [job.id]
    assert sorted(complete(shell, "%gpu show ")) == sorted(["work", job.id])
    assert complete(shell, "%gpu ls j") == ["jobs"]
    assert complete(shell, "%gpu ls jobs --state f") == ["failed"]


def test_the_command_line_prints_json(api: Api, work: Any, nbgpu: Any) -> None:
    job = work.run({"a": 1})
    job.result()
    (row,) = json.loads(nbgpu("ls", "jobs", "--endpoint", "work", "--json").stdout)["jobs"]
    assert row["id"] == job.id and row["state"] == "COMPLETED"
    shown = json.loads(nbgpu("show", job.id, "--json").stdout)
    assert shown["input"] == {"a": 1} and [m["what"] for m in shown["timeline"]][-1] == "COMPLETED"
    assert json.loads(nbgpu("why", job.id, "--json").stdout)["endpoint"] is None
    done = nbgpu("cancel", job.id)
    assert done.returncode == 1 and "nothing to cancel" in done.stderr
    assert nbgpu("cancel", "work").returncode == 2
    purged = json.loads(nbgpu("cancel", "work", "--queued", "--json").stdout)
    assert purged == {"endpoint": "work", "removed": 0, "running": 0}
