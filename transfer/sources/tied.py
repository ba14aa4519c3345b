"""Become another program, which ends when the process that started this one does.

    tied.py PID PROGRAM WORDS...

PID is whoever starts it. It imports nothing of ours and needs no site, so that it starts at once.
Where the kernel cannot end a process with its parent, the program lives on.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    if sys.platform == "linux":
        import ctypes

        # A server that has just begun may not heed SIGTERM.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the kernel was told.
    if os.getppid() == int(sys.argv[1]):
        os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
