"""The exercise's own solution, asyncio.Event, behind msd's request protocol.

    reference.py SOCKET LOAD-SECONDS

The inference takes no time here, and `Processing request <id>` is left out, as msd --quiet does: a benchmark
measures what is around the model. Beside that the class is the exercise's, with its extension. The protocol
is served by an asyncio.Protocol, the fastest of the standard library's ways.
"""

import asyncio
import json
import sys


class ModelServer:
    def __init__(self, load_time=2.0, inference_time=0.1):
        self._model = None
        self._load_time = load_time
        self._inference_time = inference_time
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self.waiting = 0

    async def load_model(self):
        print("Model loading...", flush=True)
        await asyncio.sleep(self._load_time)
        self._model = "sim"
        print("Model ready!", flush=True)
        self._ready.set()

    async def handle_request(self, request_id):
        if self._stopping.is_set():
            raise RuntimeError("Server is shutting down")
        self.waiting += 1
        await self._ready.wait()
        self.waiting -= 1
        if self._stopping.is_set():
            raise RuntimeError("Server is shutting down")
        await asyncio.sleep(self._inference_time)
        return f"Response {request_id} from {self._model}"

    def shutdown(self):
        self._stopping.set()
        self._ready.set()

    def status(self):
        state = "stopping" if self._stopping.is_set() else "ready" if self._ready.is_set() else "loading"
        return {"status": state, "model": self._model, "waiting": self.waiting}


class Connection(asyncio.Protocol):
    def __init__(self, server):
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._partial = b""

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if line.startswith(b"REQUEST "):
                # No reference to the task is kept: while it waits, the event's list of waiters leads to it.
                self._loop.create_task(self._answer(line[8:].decode()))
            elif line == b"STATUS":
                self._reply("-", json.dumps(self._server.status()))
            else:
                self._transport.write(b"ERR - bad-request Unknown command\n")

    async def _answer(self, request_id):
        try:
            self._reply(request_id, await self._server.handle_request(request_id))
        except RuntimeError as error:
            self._transport.write(f"ERR {request_id} shutting-down {error}\n".encode())

    def _reply(self, request_id, body):
        self._transport.write(f"OK {request_id} {len(body)}\n{body}\n".encode())


async def main(path, load_time):
    server = ModelServer(load_time, inference_time=0)
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(lambda: Connection(server), path, backlog=4096)
    await server.load_model()
    await loop.create_future()


asyncio.run(main(sys.argv[1], float(sys.argv[2])))
