"""The yardstick: what aiohttp and uvloop do on this core when a handler reads a body and answers prepared bytes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvloop
from aiohttp import web

from tests.bench.machine import SUBJECT_CORE, pin


def answering(status: int, size: int) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler for bodies of any size whose answers have this one."""
    body = json.dumps({"x": "x" * max(0, size - 9)}, separators=(",", ":")).encode() if size else b""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        if not body:
            return web.Response(status=status)
        return web.Response(status=status, body=body, content_type="application/json")

    return answer


async def main(order: Mapping[str, Any]) -> None:
    app = web.Application()
    for method, path, status, size in order["routes"]:
        app.router.add_route(method, path, answering(status, size))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    pin(SUBJECT_CORE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main(json.loads(sys.argv[1])))
