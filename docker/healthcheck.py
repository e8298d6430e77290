"""Whether this container is healthy: its first process runs, and the server at AIOQ_URL answers PING.

Of the nodes of a cluster, or of the sentinels, one has to answer.

A container whose first process ended is gone anyway; this finds one that is there and does nothing, because
it was stopped (SIGSTOP, a debugger) or waits to be reaped. Exit code 0 is healthy; 1 is not, with a line that
says why.
"""

import os
import sys
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aioq.config.urls import check_url, objection, parse_servers

TIMEOUT = 3.0  # seconds; below the 5 s that the Dockerfile gives the whole check
NOT_RUNNING = {
    "T": "stopped",
    "t": "traced",
    "Z": "ended",
    "X": "ended",
}  # proc(5), the states of /proc/1/stat


def first_process() -> str:
    """What is wrong with process 1, or nothing."""
    # The name before the state stands in parentheses and may hold any character, so look after the last one.
    state = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[0]
    return f"process 1 is {NOT_RUNNING[state]}" if state in NOT_RUNNING else ""


def server() -> str:
    """What is wrong with the server, or nothing. The URL is not shown: it may hold a password."""
    url = os.environ.get("AIOQ_URL")
    if not url:
        return "AIOQ_URL is not set"
    kept = check_url(url)
    if kept is None or objection(kept):
        return "AIOQ_URL is no URL of a server"
    urls = urls_of(kept)
    errors: dict[str, None] = {}
    for each in urls:
        if not (error := no_pong(each, TIMEOUT / len(urls))):
            return ""
        errors[error] = None
    return f"no PONG from the server at AIOQ_URL: {', '.join(errors)}"


def urls_of(url: str) -> list[str]:
    """The URLs of all that may answer."""
    servers = parse_servers(url)
    if servers is None:
        return [url]
    one = servers.sentinel_url if servers.kind == "sentinel" else servers.server_url
    return [one(*address) for address in servers.addresses]


def no_pong(url: str, timeout: float) -> str:
    """The error of one server that does not answer PING, or nothing."""
    options = {"socket_connect_timeout": timeout, "socket_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
    try:
        with redis.Redis.from_url(url, **options) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        return type(error).__name__
    return ""


if __name__ == "__main__":
    sys.exit(first_process() or server() or 0)
