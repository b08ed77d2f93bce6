"""The daemon's control socket: a unix socket on which the command line asks and the daemon answers.

Owns the listening socket, its connections, and the descriptors that requests bring. Never knows an
operation: requests go to one handler (daemon/requests.py), whose errors become answers. Sockets are
non-blocking and used bare, because asyncio's streams cannot take descriptors. The protocol's bytes are in
codec/control.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable

from ipdc_edge.codec import control as codec
from ipdc_edge.codec import frames
from ipdc_edge.errors import BadRequest, Busy, ControlBroken, DaemonRunning, InternalError, IpdcError

CONNECTIONS = 64  # at once; every one may hold two frames of 2 MiB
REQUEST_SECONDS = 10.0  # in which a new connection says what it wants
DESCRIPTORS = 16  # with one request
ANCILLARY = socket.CMSG_SPACE(DESCRIPTORS * 4)
CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


class SocketNotMade(IpdcError):
    """Cannot listen on {path}: {reason}."""


class ClientGone(Exception):
    """The client closed its end. Nobody waits for the answer any more; a handler lets it pass."""


class ControlChannel:
    """One connection as its handler sees it. `uid`, `gid` and `pid` are the client's, said by the kernel
    (SO_PEERCRED). One task at a time may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received: asyncio.Queue[tuple[int, bytearray]] = asyncio.Queue(1)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        self.pid, self.uid, self.gid = CREDENTIALS.unpack(credentials)

    async def send(self, value: dict[str, object]) -> None:
        """Streams a JSON object to the client (EVENT); more may follow. Waits while the client does not
        read. Raises ClientGone."""
        await self._send_json(frames.EVENT, value)

    async def send_data(self, data: bytes | bytearray | memoryview) -> None:
        """Streams content to the client (DATA), at most frames.MAX_PAYLOAD bytes at a time. Raises ClientGone."""
        await self._send(frames.DATA, data)

    async def receive(self) -> tuple[int, bytearray]:
        """The next frame after the request, (kind, payload). For `add`: BLOCK, read by codec.parse_block, or END."""
        return await self._received.get()

    async def _send_json(self, kind: int, value: dict[str, object]) -> None:
        for frame_kind, payload in codec.object_frames(kind, value):
            await self._send(frame_kind, payload)

    async def _send(self, kind: int, payload: bytes | bytearray | memoryview) -> None:
        loop = asyncio.get_running_loop()
        head = frames.encode_header(kind, len(payload))
        try:
            if len(payload) <= 65536:
                await loop.sock_sendall(self._socket, head + payload)
            else:  # two calls rather than a copy of a block
                await loop.sock_sendall(self._socket, head)
                await loop.sock_sendall(self._socket, payload)
        except OSError as error:
            raise ClientGone from error

    async def _receive_request(self, fds: list[int]) -> dict[str, object]:
        """The first frame; descriptors that come with its header are put into `fds`, those that come later
        are closed by the kernel, because nothing asks for them."""
        head = bytearray()
        while len(head) < frames.HEADER.size:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    frames.HEADER.size - len(head), ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await _readable(self._socket)
                continue
            except OSError as error:
                raise ClientGone from error
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.extend(struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4]))
            if not data:
                raise ClientGone
            if flags & socket.MSG_CTRUNC or len(fds) > DESCRIPTORS:
                raise BadRequest(reason=f"it brings more than {DESCRIPTORS} descriptors")
            head += data
        try:
            kind, length = frames.parse_header(head)
        except frames.BadFrame as error:
            raise BadRequest(reason=str(error)) from error
        return codec.parse_request(kind, await self._receive_exactly(length))

    async def _receive_exactly(self, length: int) -> bytearray:
        loop = asyncio.get_running_loop()
        payload = bytearray(length)
        view = memoryview(payload)
        at = 0
        while at < length:
            try:
                count = await loop.sock_recv_into(self._socket, view[at:])
            except OSError as error:
                raise ClientGone from error
            if not count:
                raise ClientGone
            at += count
        return payload

    async def _pump(self) -> None:
        """Takes frames off the socket, one ahead of the handler, until the client goes; that is also how a
        client that left is noticed while the handler waits for something else."""
        try:
            while True:
                kind, length = frames.parse_header(await self._receive_exactly(frames.HEADER.size))
                await self._received.put((kind, await self._receive_exactly(length)))
        except ClientGone:
            return
        except frames.BadFrame as error:
            raise ControlBroken(reason=str(error)) from error


Handler = Callable[[dict[str, object], list[int], ControlChannel], Awaitable[dict[str, object] | None]]


class ControlServer:
    """Listens on `path` and calls `handler(request, fds, channel)` for each request, each in a task of its
    own.

    What the handler returns is the ANSWER; None means END (after data). An IpdcError becomes the ANSWER
    {"error": ...}; any other exception prints its traceback to stderr and becomes an InternalError. The
    descriptors in `fds` are closed when the handler ends: os.dup what must live longer. When the client
    goes away the handler is cancelled, so a handler finishes what must be whole in a task of its own.
    """

    def __init__(self, path: str, handler: Handler, mode: int = 0o660) -> None:
        self._path = path
        self._handler = handler
        self._mode = mode
        self._listener: socket.socket | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._accepting: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many clients are served now."""
        return len(self._tasks)

    async def start(self) -> None:
        """Takes the path and begins to listen. A dead daemon's socket is replaced. Raises DaemonRunning
        where a living daemon answers, and SocketNotMade."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_dead(self._path)
            listener.bind(self._path)
            os.chmod(self._path, self._mode)  # before listen: until then nobody can connect
            listener.listen(CONNECTIONS)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise SocketNotMade(path=self._path, reason=error.strerror or str(error)) from error
        except IpdcError:
            listener.close()
            raise
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def close(self) -> None:
        """Stops listening, cancels the handlers and removes the socket file. Safe to call twice."""
        if self._listener is None:
            return
        tasks = list(self._tasks)
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()
        self._listener = None
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass  # somebody emptied the directory: the end is the same

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await _readable(listener)  # sock_accept may lose a connection when it is cancelled, and leave it open
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    await asyncio.sleep(0.2)  # the backlog stays readable: without a pause this would spin
                    continue
                if error.errno in (errno.EAGAIN, errno.ECONNABORTED, errno.EPERM, errno.EPROTO):
                    continue
                raise
            task = loop.create_task(self._serve(connection, busy=len(self._tasks) >= CONNECTIONS))
            self._tasks[task] = None
            task.add_done_callback(lambda done, connection=connection: self._served(done, connection))

    def _served(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        """A task that was cancelled before it began has closed nothing, and its client would wait for ever."""
        self._tasks.pop(task, None)
        connection.close()

    async def _serve(self, connection: socket.socket, busy: bool) -> None:
        """One connection from its first byte to its last."""
        fds: list[int] = []
        try:
            connection.setblocking(False)
            channel = ControlChannel(connection)
            await self._converse(channel, fds, busy)
        except ClientGone:
            pass  # its answer has no reader any more
        finally:
            for fd in fds:
                os.close(fd)
            connection.close()

    async def _converse(self, channel: ControlChannel, fds: list[int], busy: bool) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                if busy:
                    raise Busy(count=CONNECTIONS)
                request = await channel._receive_request(fds)
            answer = await self._handled(request, fds, channel)
        except TimeoutError:
            error: IpdcError = BadRequest(reason=f"it took more than {REQUEST_SECONDS:g} s to come")
        except IpdcError as caught:
            error = caught
        else:
            if answer is None:
                await channel._send(frames.END, b"")
            else:
                await channel._send_json(frames.ANSWER, answer)
            return
        await channel._send_json(frames.ANSWER, {"error": error.to_dict()})

    async def _handled(
        self, request: dict[str, object], fds: list[int], channel: ControlChannel
    ) -> dict[str, object] | None:
        """The handler's answer, or its error as an IpdcError. Raises ClientGone as soon as the client
        leaves, and ControlBroken when it breaks the protocol; the handler is cancelled then."""
        work = asyncio.ensure_future(self._guarded(request, fds, channel))
        pump = asyncio.ensure_future(channel._pump())
        try:
            await asyncio.wait((work, pump), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                pump.result()
                raise ClientGone
            return work.result()
        finally:
            work.cancel()
            pump.cancel()
            await asyncio.gather(work, pump, return_exceptions=True)

    async def _guarded(
        self, request: dict[str, object], fds: list[int], channel: ControlChannel
    ) -> dict[str, object] | None:
        try:
            return await self._handler(request, fds, channel)
        except (IpdcError, ClientGone):
            raise
        except Exception as error:
            import traceback

            traceback.print_exc()
            raise InternalError(type=type(error).__name__, message=str(error)[:500]) from error


async def _readable(connection: socket.socket) -> None:
    """Returns when the socket has something to read. sock_recv cannot be used where descriptors are expected."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _remove_dead(path: str) -> None:
    """Removes a socket on which nobody listens. Raises DaemonRunning, or OSError for a file that is no socket."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(1.0)
        probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        import stat

        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket is in the way") from None
        os.unlink(path)
    except (TimeoutError, BlockingIOError):
        raise DaemonRunning(socket=path) from None
    else:
        raise DaemonRunning(socket=path)
    finally:
        probe.close()
