"""The yardstick: what aiohttp and uvloop do on this core when a handler does nothing but take JSON and answer JSON.

``request.json()`` in, ``web.json_response()`` out, of the subject's sizes: the least that a handler of an aiohttp
application has. With ``bytes`` instead of JSON it only reads the body and sends prepared bytes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvloop
from aiohttp import web

from tests.bench.machine import SUBJECT_CORE, pin


def answering(status: int, size: int, *, plain: bool) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler for bodies of any size whose answers have this one."""
    content = {"x": "x" * max(0, size - 9)}
    body = json.dumps(content, separators=(",", ":")).encode()

    async def answer(request: web.Request) -> web.Response:
        if not size:
            await request.read()
            return web.Response(status=status)
        if plain:
            await request.read()
            return web.Response(status=status, body=body, content_type="application/json")
        await request.json()
        return web.json_response(content, status=status)

    return answer


async def main(order: Mapping[str, Any]) -> None:
    app = web.Application()
    for method, path, status, size in order["routes"]:
        app.router.add_route(method, path, answering(status, size, plain=order.get("plain", False)))
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
