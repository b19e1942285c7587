"""`python -m benchmarks.webhook_receiver <port>`: answers at once, or after 15 s, and tells when what came.

POST /ok/… 200 at once; POST /hang/… 200 after HANG_SECONDS; GET /arrivals `[[path, id, unix time], …]`.
"""

import asyncio
import json
import sys
import time

HANG_SECONDS = 15.0
_REPLY = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"


class Receiver:
    """Speaks as much HTTP/1.1 as our sender and this benchmark do."""

    def __init__(self) -> None:
        self._arrivals: list[tuple[str, str, float]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the sender has hung up
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        arrived_at = time.time()
        method, path, _ = head[0].split(" ")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        await reader.readexactly(int(headers.get("content-length", "0")))
        body = b""
        if method == "GET":
            body = json.dumps(self._arrivals).encode()
        else:
            self._arrivals.append((path, headers.get("webhook-id", ""), arrived_at))
            if path.startswith("/hang/"):
                await asyncio.sleep(HANG_SECONDS)
        writer.write(_REPLY.format(length=len(body)).encode() + body)
        await writer.drain()
        return True


async def main(port: int) -> None:
    server = await asyncio.start_server(Receiver().serve, "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
