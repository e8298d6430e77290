import asyncio
import os

import pytest

from aioq.worker.identity import Incarnation, Membership, incarnation_prefix
from tests.unit.kit import turns, within

pytestmark = pytest.mark.anyio


def test_no_worker_id_comes_twice():
    incarnations = [Incarnation() for _ in range(100)]
    ids = {one.new_id() for one in incarnations for _ in range(10)}
    assert len(ids) == 1000
    assert all(f"-{os.getpid()}-" in each for each in ids)


def test_a_long_host_name_is_cut(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("socket.gethostname", lambda: "h" * 500)
    assert len(Incarnation().new_id()) < 100


def test_the_ids_of_an_incarnation_begin_alike_and_no_other_ones_do():
    mine, other = Incarnation("word"), Incarnation("word2")
    prefix = incarnation_prefix(os.getpid(), "word")
    assert all(mine.new_id().startswith(prefix) for _ in range(3))
    assert not other.new_id().startswith(prefix)


async def test_ready_waits_for_the_lease():
    subject = Membership("mail", Incarnation())
    waiting = asyncio.create_task(subject.ready())
    await turns()
    assert (waiting.done(), subject.joined) == (False, False)
    subject.confirm(subject.worker)
    await within(asyncio.wait([waiting]))
    assert waiting.result() == subject.worker
    assert subject.joined


async def test_a_lost_lease_makes_a_new_id_that_has_to_be_confirmed():
    subject = Membership("mail", Incarnation())
    old = subject.worker
    subject.confirm(old)
    ended = asyncio.create_task(subject.ended(subject.worker))
    await turns()
    assert not ended.done()
    assert subject.lose(old) is True
    await within(asyncio.wait([ended]))
    assert subject.worker != old
    assert not subject.joined
    subject.confirm(subject.worker)
    assert subject.joined
    assert await within(subject.ready()) == subject.worker


async def test_only_the_first_to_notice_a_loss_gets_true():
    subject = Membership("mail", Incarnation())
    old = subject.worker
    assert [subject.lose(old), subject.lose(old)] == [True, False]


async def test_a_late_confirmation_of_an_old_id_does_not_count():
    subject = Membership("mail", Incarnation())
    old = subject.worker
    subject.lose(old)
    subject.confirm(old)
    assert not subject.joined


async def test_who_waited_for_the_end_learns_of_it_although_the_next_lease_is_there_already():
    subject = Membership("mail", Incarnation())
    subject.confirm(subject.worker)
    ended = asyncio.create_task(subject.ended(subject.worker))
    await turns()
    subject.lose(subject.worker)
    subject.confirm(subject.worker)
    await within(asyncio.wait([ended]))
    again = asyncio.create_task(subject.ended(subject.worker))
    await turns()
    assert not again.done()
    again.cancel()


async def test_who_comes_after_the_end_of_an_id_does_not_wait_for_that_of_the_next():
    """It was lost, and the next one confirmed, while somebody still made ready under the old one."""
    subject = Membership("mail", Incarnation())
    old = subject.worker
    subject.confirm(old)
    subject.lose(old)
    subject.confirm(subject.worker)
    await within(subject.ended(old))
