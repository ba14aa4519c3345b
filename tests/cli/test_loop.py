"""The commands' event loop: what it says by itself on stderr."""

import asyncio
import gc

import pytest

from transfer.cli.running import new_loop


def said_of(error, capfd, caplog):
    """What reaches a user of a future that failed with *error* when nobody waits for it."""

    async def forget():
        asyncio.get_running_loop().create_future().set_exception(error)
        gc.collect()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(forget())
    return caplog.text + capfd.readouterr().err


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError()])
def test_a_connection_that_breaks_when_nobody_waits_for_it_is_not_told(error, capfd, caplog):
    assert said_of(error, capfd, caplog) == ""


def test_any_other_forgotten_error_is_told(capfd, caplog):
    assert "ValueError: lost" in said_of(ValueError("lost"), capfd, caplog)
