"""One alarm at a time, in ns of `time.monotonic_ns`, as exact as the system has it.

The timers of asyncio and uvloop are a millisecond coarse; Linux's timerfd is some 40 us late under
both. Elsewhere the loop's timer does: it is late more often than early, and the bucket goes on
filling meanwhile, so lateness costs smoothness and no rate.
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

SECOND = 10**9
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME of linux/timerfd.h
_TICK = 0.001  # seconds: uvloop rounds to the nearest, so that a shorter sleep ends at once


class Timer(Protocol):
    def arm(self, at: int) -> None:
        """Call back at *at* or soon after, instead of at what was said before."""

    def disarm(self) -> None: ...
    def close(self) -> None: ...


Timers = Callable[[Callable[[], None]], Timer]


def timer(callback: Callable[[], None]) -> Timer:
    """The best one for the running loop."""
    loop = asyncio.get_running_loop()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError, NotImplementedError):
            return TimerDescriptor(loop, callback)
    return LoopTimer(loop, callback)


class LoopTimer:
    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop, self._callback = loop, callback
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at: int) -> None:
        self.disarm()
        delay = max((at - time.monotonic_ns()) / SECOND, _TICK)
        self._handle = self._loop.call_later(delay, self._callback)

    def disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    close = disarm


class TimerDescriptor:
    """Raises OSError or AttributeError where there is no timerfd."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop, self._callback = loop, callback
        self._settime = _system_settime()
        self._descriptor = _create()
        self._armed = 0
        try:
            loop.add_reader(self._descriptor, self._fired)
        except BaseException:
            os.close(self._descriptor)
            raise

    def arm(self, at: int) -> None:
        at = max(at, 1)  # 0 would disarm
        if at != self._armed:
            self._armed = at
            self._settime(self._descriptor, at)

    def disarm(self) -> None:
        if self._armed:
            self._armed = 0
            self._settime(self._descriptor, 0)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _fired(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return  # armed anew since the loop saw it
        self._armed = 0
        self._callback()


def _create() -> int:
    # The flags of timerfd are those of open; see timerfd_create(2).
    flags = os.O_NONBLOCK | os.O_CLOEXEC
    if create := getattr(os, "timerfd_create", None):  # since Python 3.13
        return int(create(time.CLOCK_MONOTONIC, flags=flags))
    descriptor = int(_libc().timerfd_create(time.CLOCK_MONOTONIC, flags))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    return descriptor


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _system_settime() -> Callable[[int, int], None]:
    """Of a descriptor, and a moment in ns; 0 disarms."""
    if settime_ns := getattr(os, "timerfd_settime_ns", None):
        return partial(_settime, settime_ns)
    function = _libc().timerfd_settime
    spec = _Itimerspec()
    pointer = ctypes.byref(spec)

    def settime(descriptor: int, at: int) -> None:
        spec.value.sec, spec.value.nsec = divmod(at, SECOND)
        if function(descriptor, _ABSOLUTE, pointer, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    return settime


def _settime(settime_ns: Callable[..., object], descriptor: int, at: int) -> None:
    settime_ns(descriptor, flags=_ABSOLUTE, initial=at)
