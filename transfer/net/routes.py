"""Routes: every call of a vault's server, and what holds for all of them.

    request -> route -> admission -> the call -> its answer, or its error as a problem

One table says what each call is: the router, the checks, the metrics, and docs/openapi.json with
its test read it.
"""

import re
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from aiohttp import web

from transfer.errors import TransferError
from transfer.formats.messages import PROBLEM, Problem
from transfer.net import frame_calls, machine_calls, point_calls, problems
from transfer.net.admission import Caller, address_of
from transfer.net.metrics import Metrics
from transfer.net.service import BEGUN, WRITTEN, Service

Answer = Awaitable[web.StreamResponse]


class Call(NamedTuple):
    """*run* of a call for machines is given the caller; *writes* is not for readers.

    *bulk* is bounded by its bytes, all others by how many there are in a second.
    """

    method: str
    path: str
    run: Callable[[Service, web.Request, Caller], Answer]
    writes: bool = False
    bulk: bool = False


class OpenCall(NamedTuple):
    """A call that makes the caller known, or that anybody may make."""

    method: str
    path: str
    run: Callable[[Service, web.Request], Answer]


# What stands in a path; anything else there is no call's path.
PARAMETERS = {"session": "[0-9]{1,18}", "point": "[0-9a-f]{64}"}
_SESSION = "/v1/sessions/{session}"
CALLS: tuple[Call | OpenCall, ...] = (
    OpenCall("POST", "/v1/register", machine_calls.register),
    OpenCall("POST", "/v1/renew", machine_calls.renew),
    Call("GET", "/v1/vault", machine_calls.view),
    Call("GET", "/v1/statistics", machine_calls.statistics),
    Call("POST", "/v1/sessions", point_calls.open_session),
    Call("POST", f"{_SESSION}/heartbeat", point_calls.heartbeat),
    Call("POST", f"{_SESSION}/end", point_calls.end_session),
    Call("GET", f"{_SESSION}/wanted", frame_calls.wanted),
    Call("POST", "/v1/have", frame_calls.have, bulk=True),
    Call("POST", "/v1/frames", frame_calls.store, writes=True, bulk=True),
    Call("POST", "/v1/fetch", frame_calls.fetch, bulk=True),
    Call("POST", "/v1/damaged", frame_calls.damaged),
    Call("GET", "/v1/items", point_calls.items),
    Call("GET", "/v1/points", point_calls.points),
    Call("POST", "/v1/points", point_calls.commit, writes=True),
    Call("GET", "/v1/points/{point}", point_calls.committing),
    Call("GET", "/v1/keyring", point_calls.keyring),
    Call("POST", "/v1/keyring", point_calls.add_keyring, writes=True),
)


BROKEN_OFF = 0


class Done(NamedTuple):
    """What a log of requests says of one: *path* is the call's, and names no ID.

    *status* is BROKEN_OFF for an answer that was not sent to its end. Bytes are those of bodies.
    """

    method: str
    path: str
    status: int
    machine: str
    address: str
    received: int
    sent: int
    seconds: float


def application(
    service: Service, metrics: Metrics, log: Callable[[Done], None] | None
) -> web.Application:
    app = web.Application(client_max_size=1)  # nothing of ours reads a body through aiohttp's own
    for call in CALLS:
        path = re.sub(r"\{(\w+)\}", lambda found: _pattern(found[1]), call.path)
        app.router.add_route(call.method, path, _handler(call, service, metrics, log))
    app.middlewares.append(_unrouted)
    return app


def _pattern(name: str) -> str:
    return f"{{{name}:{PARAMETERS[name]}}}"


def _handler(
    call: Call | OpenCall, service: Service, metrics: Metrics, log: Callable[[Done], None] | None
) -> Callable[[web.Request], Answer]:
    name = f"{call.method} {call.path}"

    async def handle(request: web.Request) -> web.StreamResponse:
        began, callers, status = time.monotonic(), list[Caller](), BROKEN_OFF
        address, response = address_of(request), None
        try:
            response = await _answered(request, lambda: _run(call, service, request, callers))
            status = response.status
            return response
        finally:
            seconds, received = time.monotonic() - began, request.content.total_bytes
            sent = _length(request.get(BEGUN) if response is None else response)
            metrics.done(name, status, seconds, received, sent)
            if log is not None:
                machine = callers[0].record.name if callers else "-"
                log(Done(
                    call.method, call.path, status, machine, address, received, sent, seconds
                ))  # fmt: skip

    return handle


def _length(response: web.StreamResponse | None) -> int:
    """Of a body that is still to be sent, or that was, as far as it was."""
    if response is None:
        return 0
    whole = isinstance(response, web.Response)
    return (response.content_length or 0) if whole else response.get(WRITTEN, 0)


async def _run(
    call: Call | OpenCall, service: Service, request: web.Request, callers: list[Caller]
) -> web.StreamResponse:
    if isinstance(call, OpenCall):
        return await call.run(service, request)
    caller = await service.admission.admit(request)
    callers.append(caller)
    if not call.bulk:
        await service.calling.check(caller.machine)
    if call.writes:
        caller.check_writes()
    return await service.admission.while_good(caller, call.run(service, request, caller))


async def _answered(request: web.Request, run: Callable[[], Answer]) -> web.StreamResponse:
    try:
        return await run()
    except TransferError as error:
        problem = problems.problem_of(error)
        if problem.status >= 500 and error.message != problem.detail:
            print(f"{error.code}: {error}", file=sys.stderr)
    except (ConnectionError, web.HTTPException):
        raise
    except Exception:
        traceback.print_exc(file=sys.stderr)
        problem = problems.bug()
    if BEGUN in request and request.transport is not None:
        # What was sent looks good: only a broken connection can say that it is not all.
        request.transport.abort()
        raise ConnectionResetError("the answer was broken off")
    return as_response(problem)


@web.middleware
async def _unrouted(
    request: web.Request, handler: Callable[[web.Request], Answer]
) -> web.StreamResponse:
    """What no call of ours is, told as all else is."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        message = f"{request.method} {request.path}: {error.reason}"
        response = as_response(Problem(error.status, "call-refused", message[:200]))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


def as_response(problem: Problem) -> web.Response:
    response = web.Response(
        body=msgspec.json.encode(problem), content_type=PROBLEM, status=problem.status
    )
    if (seconds := problems.RETRY_AFTER.get(problem.status)) is not None:
        response.headers["Retry-After"] = str(seconds)
    return response
