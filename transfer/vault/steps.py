"""Steps: long work that gives the vault's one thread to other calls now and then.

A generator that yields where others may go first; no transaction is open there, and what it
learnt before may have changed.
"""

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]


def at_once(work: Steps[T]) -> T:
    """Do all of *work*, for who has the thread to itself."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: T = end.value
            return found
