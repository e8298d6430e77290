import asyncio
import os

import pytest

from aioq.worker.membership import Membership, new_worker_id
from tests.unit.kit import turns, within

pytestmark = pytest.mark.anyio


def test_no_worker_id_comes_twice():
    ids = {new_worker_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(f"-{os.getpid()}-" in each for each in ids)


def test_a_long_host_name_is_cut(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("socket.gethostname", lambda: "h" * 500)
    assert len(new_worker_id()) < 100


async def test_ready_waits_for_the_lease():
    subject = Membership("mail")
    waiting = asyncio.create_task(subject.ready())
    await turns()
    assert (waiting.done(), subject.joined) == (False, False)
    subject.confirm(subject.worker)
    await within(asyncio.wait([waiting]))
    assert waiting.result() == subject.worker
    assert subject.joined


async def test_a_lost_lease_makes_a_new_id_that_has_to_be_confirmed():
    subject = Membership("mail")
    old = subject.worker
    subject.confirm(old)
    ended = asyncio.create_task(subject.ended())
    await turns()
    assert not ended.done()
    assert subject.lose(old) is True
    await within(asyncio.wait([ended]))
    assert subject.worker != old
    assert not subject.joined
    subject.confirm(subject.worker)
    assert subject.joined
    assert await within(subject.ready()) == subject.worker


async def test_only_the_first_to_notice_a_loss_is_told_so():
    subject = Membership("mail")
    old = subject.worker
    assert [subject.lose(old), subject.lose(old)] == [True, False]


async def test_a_late_confirmation_of_an_old_id_does_not_count():
    subject = Membership("mail")
    old = subject.worker
    subject.lose(old)
    subject.confirm(old)
    assert not subject.joined


async def test_who_waited_for_the_end_learns_of_it_although_the_next_lease_is_there_already():
    subject = Membership("mail")
    subject.confirm(subject.worker)
    ended = asyncio.create_task(subject.ended())
    await turns()
    subject.lose(subject.worker)
    subject.confirm(subject.worker)
    await within(asyncio.wait([ended]))
    again = asyncio.create_task(subject.ended())
    await turns()
    assert not again.done()
    again.cancel()
