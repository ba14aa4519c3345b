"""Both event loops: asyncio's is what Python has, uvloop what the command runs on."""

import asyncio
import functools
import inspect

import pytest
import uvloop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test):
    """Their TLS differs, and so does all that is below streams."""

    @functools.wraps(test)
    def run(loop, **fixtures):
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(asyncio.wait_for(test(**fixtures), 20))

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[loop, *signature.parameters.values()])
    return pytest.mark.parametrize("loop", LOOPS)(run)
