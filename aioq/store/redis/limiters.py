"""App-wide limiters on a Redis or Valkey server; each Lua file describes its command."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from aioq.store.limiters import (
    KEPT_MS,
    MOST_HOLDERS,
    POLL_MS,
    QUANTUM_MS,
    SAME_WINDOW_MS,
    SNOOZED_MS,
    STALE_MS,
    TURN_MS,
    LimiterRule,
    LimiterState,
    Promise,
    Take,
    Taken,
    limiter_queue,
    permit_channel,
)
from aioq.store.pubsub import Inbox
from aioq.store.redis.errors import translate
from aioq.store.redis.keys import limiters_key, snoozed_key
from aioq.store.redis.net.commands import sent_again
from aioq.store.redis.net.connection import Arg

Call = Callable[[str, str, Sequence[Arg]], Awaitable[Any]]
"""Calls a script, given its name, the name that stands for a queue, and its arguments."""

MOST_NAMES = 1_000
"""The most limiters that are listed."""


class RedisLimiters:
    """The limiters of an App.

    Args:
        app: the App's name.
        call: calls a script, once: it is not repeated if the reply is lost.
        call_retried: calls one that may be repeated.
        command: sends a command of the server's own.
        inbox: the subscription, for what wakes a process that waits.
        lease_ms: how long a lease lasts after each renewal.
        shown_url: the server, for messages.
    """

    def __init__(
        self,
        app: str,
        call: Call,
        call_retried: Call,
        command: Callable[..., Awaitable[Any]],
        inbox: Inbox,
        *,
        lease_ms: int,
        shown_url: str,
    ) -> None:
        self._app = app
        self._call = call
        self._call_retried = call_retried
        self._command = command
        self._inbox = inbox
        self._lease_ms = lease_ms
        self._shown_url = shown_url

    wakes_all = False
    """Whether those that wait for tokens are woken."""

    async def take(self, name: str, take: Take) -> Taken | None:
        """Take tokens and places, and give back."""
        return _taken(await self._call("limiter_take", limiter_queue(name), take_args(take, self._lease_ms)))

    async def note(self, name: str) -> None:
        """Note that there is a limiter of this name."""
        await self._send("SADD", name)
        await self._send("PEXPIRE", KEPT_MS)

    async def names(self) -> list[str]:
        """The limiters of the App, sorted."""
        return sorted(each.decode() for each in await self._send("SMEMBERS"))[:MOST_NAMES]

    async def state(self, name: str) -> LimiterState | None:
        """What the server knows of a limiter."""
        reply = await self._call_retried("limiter_read", limiter_queue(name), [MOST_HOLDERS])
        if not reply:
            return None
        rule, available, used, waiting, blocked_ms, *holders = reply
        return LimiterState(
            name=name,
            rule=LimiterRule.decode(rule.decode()),
            available=float(available),
            used=used,
            holders=dict(sorted(zip((each.decode() for each in holders[::2]), holders[1::2], strict=True))),
            waiting=waiting,
            blocked_ms=blocked_ms,
        )

    async def snoozed(self, name: str, job: str) -> int | None:
        """When a job is to come back that was put off."""
        due = await self._send("ZSCORE", job, key=snoozed_key(self._app, name))
        return None if due is None else int(float(due))

    async def listen(self, name: str, member: str, on_wake: Callable[[], None]) -> None:
        """Call `on_wake` when the process may get a place."""
        await self._inbox.listen(permit_channel(self._app, name, member), lambda _: on_wake(), on_wake)

    async def leave(self, name: str, member: str) -> None:
        """Listen no more."""
        await self._inbox.leave(permit_channel(self._app, name, member))

    async def _send(self, command: str, *args: Arg, key: str = "") -> Any:
        try:
            return await sent_again(self._command, command, key or limiters_key(self._app), *args)
        except ResponseError as error:
            raise translate(error, self._shown_url) from None


def take_args(take: Take, lease_ms: int) -> list[Arg]:
    """The arguments of `limiter_take`."""
    promise, observed = take.promise, take.observed
    args: list[Arg] = [take.member, lease_ms, "1" if take.evicts else ""]
    args += ("" if take.rule is None else take.rule.encode(), take.revision, take.held, take.idle, take.spare)
    args += (QUANTUM_MS, STALE_MS, POLL_MS, KEPT_MS)
    args.append("" if promise is None else f"{promise.tokens!r} {promise.due_ms!r} {promise.debts!r}")
    args += (repr(take.debt), " ".join(f"{tokens!r} {stamp!r}" for tokens, stamp in take.refunds))
    reset = "" if observed is None or observed.reset_ms is None else observed.reset_ms
    args.append("" if observed is None else f"{observed.remaining!r} {reset}")
    args += (TURN_MS, SAME_WINDOW_MS, take.job, take.snooze_ms, SNOOZED_MS)
    return args + [repr(need) for need in take.needs]


def _taken(reply: Sequence[Any]) -> Taken | None:
    if not reply:
        return None
    revision, rule, held, granted, spare, wait, promise, stamp, others = reply
    return Taken(
        revision=int(revision),
        rule=LimiterRule.decode(rule.decode()) if rule else None,
        held=held,
        granted=granted,
        spare=spare,
        wait_ms=float(wait) if wait else None,
        promise=Promise.decode(promise.decode()) if promise else None,
        stamp=float(stamp),
        is_contended=bool(others & 1),
        is_closing=bool(others & 2),
        is_snoozed=bool(others & 4),
    )
