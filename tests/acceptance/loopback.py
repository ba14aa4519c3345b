"""A loopback of the caller's own, whose sockets hold little: what was sent has nearly arrived."""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEW_NETWORK = 0x40000000  # CLONE_NEWNET
SET_FLAGS, UP = 0x8914, 0x1 | 0x40  # SIOCSIFFLAGS; IFF_UP and IFF_RUNNING


@contextmanager
def narrow(size: int = 65536) -> Iterator[bool]:
    """This thread, and processes that it starts, are in a network where a socket's buffers have at
    most *size* bytes. False if that cannot be had: only root may."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(NEW_NETWORK):
            yield False
            return
        try:
            with socket.socket() as any_socket:
                fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))
            for name in ("tcp_rmem", "tcp_wmem"):
                Path(f"/proc/sys/net/ipv4/{name}").write_text(f"4096 {size} {size}")
            yield True
        finally:
            if libc.setns(before, NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "the network before cannot be entered again")
    finally:
        os.close(before)
