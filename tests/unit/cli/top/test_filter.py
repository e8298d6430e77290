"""The filter that is typed."""

import pytest

from aioq.cli.top.filter import parse_filter
from aioq.errors import ConfigError, Failure
from aioq.jobs.job import JobInfo, JobState

JOB = JobInfo(
    id="mail.abc",
    queue="mail",
    task="shop.send",
    state=JobState.FAILED,
    worker="web1-7-1",
    error=Failure("builtins.TimeoutError", "the bank did not answer"),
    tags=("eu",),
)


def test_a_job_shows_all_the_words_and_fits_all_the_patterns() -> None:
    cases = {
        "": True,
        "send": True,
        "SEND bank": True,
        "'did not'": True,
        "not 'did send'": False,
        "eu": True,
        "queue=mail": True,
        "queue=m*": True,
        "queue=default": False,
        "task=shop.*": True,
        "task=send": False,
        "task=other task=*.send": True,
        "tag=eu": True,
        "tag=eu tag=vip": False,
        "error=Timeout*": True,
        'error="the bank*"': True,
        "error=Value*": False,
        "worker=web1-*": True,
        "worker=web2-* send": False,
    }
    assert {text: parse_filter(text).fits(JOB) for text in cases} == cases


def test_what_is_wrong_is_said() -> None:
    for text, said in {
        "tsk=a": "unknown name 'tsk' (did you mean 'task'?); there are: queue, task, tag, error, worker",
        "error='a": "No closing quotation",
        "error=a error=b": "error= is given more than once",
        "task=": "task='': expected a text",
        "task=[a": "is never closed",
    }.items():
        with pytest.raises(ConfigError) as caught:
            parse_filter(text)
        assert said in str(caught.value)


def test_workers_are_found_by_their_ids() -> None:
    assert parse_filter("web1").fits_worker("web1-7")
    assert parse_filter("worker=web1-*").fits_worker("web1-7")
    assert not parse_filter("worker=web2-*").fits_worker("web1-7")
