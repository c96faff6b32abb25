"""stdout is for what a command was asked for: what Temporal's SDK has to say goes elsewhere."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from batch.local.options import StackOptions
from batch.local.stack import LocalStack

CALLER = """
    import asyncio, os, signal, sys, time
    from batch.network.connection import connect_temporal

    async def call():
        client = await connect_temporal()
        os.kill(int(sys.argv[1]), signal.SIGKILL)
        try:
            await asyncio.wait_for(client.get_workflow_handle("x").describe(), 12)
        except Exception as error:
            sys.stderr.write(f"gone: {error!r}")

    asyncio.run(call())
    time.sleep(0.5)  # the SDK hands its logs over a few milliseconds late
    os._exit(0)
"""


def test_a_server_that_goes_away_is_no_news_for_stdout() -> None:
    with LocalStack(StackOptions(provider=False)) as stack:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CALLER), str(stack.temporal.pid)],
            env=stack.child_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        stack.temporal.kill()
    assert "retried" in done.stderr, "the SDK warned"
    assert done.stdout == ""
