"""`aioq.worker.trouble`: errors in, decisions out."""

from collections.abc import Sequence

import pytest

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError
from aioq.worker.trouble import OUTAGE_TRIES, Trouble

WRONG = ServerError("WRONGTYPE k")
OTHER = ServerError("refused a command: XADD")
DOWN = ServerUnavailableError("cannot be reached")
LOGIN = ServerRejectedError("wrong password")
LOGIN.is_login = True

CASES: list[tuple[Sequence[ServerError | None], list[bool]]] = [
    # what happens, None where the duty works; and whether it is logged
    ([WRONG, WRONG, OTHER, WRONG, OTHER], [True, False, True, False, False]),
    ([WRONG, None, None, WRONG], [True, True, False, True]),  # that it works again is logged too
    ([DOWN] * (OUTAGE_TRIES - 1) + [None], [False] * OUTAGE_TRIES),  # the leases say it
    ([DOWN] * (OUTAGE_TRIES + 1) + [None], [False] * (OUTAGE_TRIES - 1) + [True, False, True]),
    ([DOWN, None] * OUTAGE_TRIES, [False, False] * OUTAGE_TRIES),
    ([LOGIN] * 10 + [None], [False] * 11),
]


@pytest.mark.parametrize(("happens", "logged"), CASES)
def test_what_is_logged_of_errors_that_come_again_and_again(
    happens: Sequence[ServerError | None], logged: list[bool]
) -> None:
    trouble = Trouble()
    assert [trouble.healed() if each is None else trouble.failed(each) for each in happens] == logged
