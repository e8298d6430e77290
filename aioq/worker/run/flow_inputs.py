"""Jobs of flows: results of others come into the arguments before the call; what it adds is stored after it."""

import asyncio

import msgspec

from aioq.errors import ArgumentError, ServerUnavailableError, WireError
from aioq.flows.graft_offers import GRAFT_HEADER
from aioq.flows.grafts import offer
from aioq.flows.inputs import inputs_of, jobs_of, spliced, spliced_array, values_of
from aioq.flows.stepping import outcomes_of
from aioq.jobs.retry import Snooze
from aioq.store.contract import Store
from aioq.store.outcomes import WaitReply
from aioq.tasks.task import signature_of
from aioq.util.aio import Backoff
from aioq.wire.messages import Envelope, FlowCall
from aioq.worker.run.run import Run

PATIENCE = 30.0
"""Seconds for which a job waits for the server that has its inputs, before it is given back. A guess."""

PUT_OFF = 5.0
"""Seconds after which it is tried again."""


_NO_INPUTS = b"\x90"


def take_inputs(run: Run, envelope: Envelope, flow: FlowCall) -> Envelope:
    """The call with its inputs in the arguments; or `lacks_inputs` is set: results have to be read before.

    Raises:
        WireError: the inputs or the arguments cannot be read.
    """
    if bytes(flow.inputs) == _NO_INPUTS:
        return envelope
    if next(jobs_of(flow.flow_id, inputs_of(flow.inputs)), None) is not None:
        run.lacks_inputs = True
        return envelope
    return _spliced(envelope, flow, {})


async def read_inputs(store: Store, run: Run) -> None:
    """Read the results that a job's arguments are made of, and decode these.

    Raises:
        Snooze: the server that has them cannot be reached: the job is given back for a while.
        ArgumentError: a result is not there any more, or does not fit the task's signature.
    """
    envelope = run.envelope
    assert envelope is not None
    assert envelope.flow is not None
    job_ids = list(dict.fromkeys(jobs_of(envelope.flow.flow_id, inputs_of(envelope.flow.inputs))))
    outcomes = await _outcomes(store, envelope.flow.home, job_ids)
    try:
        run.envelope = _spliced(envelope, envelope.flow, outcomes)
        if not run.in_child:
            assert run.task is not None
            run.args, run.kwargs = signature_of(run.task).decode(run.envelope.args, run.envelope.kwargs)
    except WireError as error:
        run.permanent = ArgumentError(str(error))
        raise run.permanent from None
    run.lacks_inputs = False


async def _outcomes(store: Store, home: str, job_ids: list[str]) -> dict[str, WaitReply]:
    backoff = Backoff()
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while True:
        try:
            return await outcomes_of(store, home, job_ids)
        except ServerUnavailableError:
            if loop.time() > until:
                raise Snooze(PUT_OFF) from None
            await asyncio.sleep(backoff.next())


async def offer_graft(store: Store, run: Run) -> None:
    """Store what a run has added to its flow; the outcome names it then.

    Raises:
        ServerRejectedError: the server refuses it; or the error that a call does not fit its task.
    """
    context, backoff = run.context, Backoff()
    assert context is not None
    while True:
        try:
            named = await offer(context, store)
            break
        except ServerUnavailableError:
            await asyncio.sleep(backoff.next())
    if named is not None:
        envelope = run.envelope
        assert envelope is not None
        headers = {**(envelope.options.headers or {}), GRAFT_HEADER: named}
        options = msgspec.structs.replace(envelope.options, headers=headers)
        run.envelope = msgspec.structs.replace(envelope, options=options)


def _spliced(envelope: Envelope, flow: FlowCall, outcomes: dict[str, WaitReply]) -> Envelope:
    values = values_of(flow.flow_id, inputs_of(flow.inputs), outcomes)

    def value(position: int) -> msgspec.Raw:
        if not 0 <= position < len(values):
            raise WireError(f"the arguments of {envelope.task!r} name an input that is not there: {position}")
        return values[position]

    args, kwargs = spliced_array(envelope.args, value), spliced(envelope.kwargs, value)
    return msgspec.structs.replace(envelope, args=args, kwargs=kwargs)
