"""The control socket: the daemon's server against the command line's client, over a real socket."""

from __future__ import annotations

import asyncio
import gc
import grp
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.codec import control as codec
from ipdc_edge.codec import frames
from ipdc_edge.commands import client
from ipdc_edge.drivers import control
from ipdc_edge.drivers.control import ControlChannel, ControlServer, SocketNotMade
from ipdc_edge.errors import BadRequest, ControlBroken, DaemonLost, DaemonRunning, IpdcError, NoDaemon, NotAllowed
from ipdc_edge.home import Home
from tests.waiting import eventually_async


class OutOfPaper(IpdcError):
    """No paper in {tray}."""

    exit_code = 9


class Daemon:
    """A handler with one operation for everything that a connection can carry."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.cancelled = asyncio.Event()
        self.waiting = asyncio.Event()

    async def handle(
        self, request: dict[str, Any], fds: list[int], channel: ControlChannel
    ) -> dict[str, Any] | None:
        operation: Callable[..., Awaitable[dict[str, Any] | None]] = getattr(self, str(request["operation"]))
        return await operation(request, fds, channel)

    async def echo(self, request: dict[str, Any], fds: list[int], channel: ControlChannel) -> dict[str, Any]:
        return {"request": request, "uid": channel.uid, "pid": channel.pid}

    async def read(self, request: dict[str, Any], fds: list[int], channel: ControlChannel) -> dict[str, Any]:
        self.kept = fds
        return {
            "texts": [os.pread(fd, 100, 0).decode() for fd in fds],
            "inherited": [os.get_inheritable(fd) for fd in fds],
        }

    async def blocks(self, request: dict[str, Any], _: list[int], channel: ControlChannel) -> dict[str, Any]:
        found = []
        while (frame := await channel.receive())[0] == frames.BLOCK:
            cid, block = codec.parse_block(frame[1])
            found.append([cid, len(block)])
        return {"blocks": found, "end": frame[0] == frames.END}

    async def count(self, request: dict[str, Any], fds: list[int], channel: ControlChannel) -> dict[str, Any]:
        for number in range(request["to"]):
            await channel.send({"number": number})
        return {"number": request["to"]}

    async def content(self, request: dict[str, Any], _: list[int], channel: ControlChannel) -> None:
        for _ in range(request["times"]):
            await channel.send_data(bytes(request["size"]))
        if request.get("fail"):
            raise OutOfPaper(tray="three")

    async def fail(self, request: dict[str, Any], fds: list[int], channel: ControlChannel) -> dict[str, Any]:
        raise OutOfPaper(tray="two {x}")

    async def bug(self, request: dict[str, Any], fds: list[int], channel: ControlChannel) -> dict[str, Any]:
        return {"impossible": 1 // 0}

    async def wait(self, request: dict[str, Any], fds: list[int], channel: ControlChannel) -> dict[str, Any]:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return {}


def _run(tmp_path: Path, test: Callable[[Home, Daemon, ControlServer], Awaitable[None]]) -> None:
    async def main() -> None:
        home = Home({"IPDC_HOME": str(tmp_path)})
        home.prepare()
        daemon = Daemon()
        server = ControlServer(home.control_socket, daemon.handle)
        await server.start()
        try:
            async with asyncio.timeout(30):
                await test(home, daemon, server)
        finally:
            await server.close()
        assert server.connections == 0
        assert not os.path.exists(home.control_socket)

    asyncio.run(main())


def _ask(tmp_path: Path, ask: Callable[[Home], Any]) -> Any:
    """The client is blocking, so it runs in a thread, as it would in another process."""
    result: list[Any] = []

    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        result.append(await asyncio.to_thread(ask, home))

    _run(tmp_path, test)
    return result[0]


def test_a_request_gets_its_answer_and_the_kernel_says_who_asked(tmp_path: Path) -> None:
    answer = _ask(tmp_path, lambda home: client.call(home, "echo", name="ä\udcff", deep={"a": [1, None]}))
    assert answer["request"] == {"operation": "echo", "name": "ä\udcff", "deep": {"a": [1, None]}}
    assert (answer["uid"], answer["pid"]) == (os.getuid(), os.getpid())


def test_the_socket_is_closed_to_others(tmp_path: Path) -> None:
    mode = _ask(tmp_path, lambda home: stat.S_IMODE(os.stat(home.control_socket).st_mode))
    assert mode == 0o660


def test_descriptors_arrive_and_are_closed_when_the_handler_ends(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.write_text(path.name)

    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        def ask() -> dict[str, object]:
            with paths[0].open() as one, paths[1].open() as two, client.Conversation(home) as conversation:
                conversation.request("read", {}, (one.fileno(), two.fileno()))
                return conversation.answer()

        assert await asyncio.to_thread(ask) == {"texts": ["one", "two"], "inherited": [False, False]}
        await eventually_async(lambda: not server.connections, "the handler's end")
        assert len(daemon.kept) == 2
        for fd in daemon.kept:
            with pytest.raises(OSError):
                os.fstat(fd)

    _run(tmp_path, test)


def test_more_descriptors_than_allowed_are_refused_and_none_leaks(tmp_path: Path) -> None:
    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        def ask() -> None:
            with client.Conversation(home) as conversation, open(os.devnull) as file:
                conversation.request("read", {}, (file.fileno(),) * (control.DESCRIPTORS + 5))
                conversation.answer()

        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(BadRequest, match="more than 16 descriptors"):
            await asyncio.to_thread(ask)
        await eventually_async(lambda: not server.connections, "the connection's end")
        assert len(os.listdir("/proc/self/fd")) == before

    _run(tmp_path, test)


def test_blocks_follow_a_request(tmp_path: Path) -> None:
    def ask(home: Home) -> dict[str, object]:
        with client.Conversation(home) as conversation:
            conversation.request("blocks", {})
            for number in range(40):
                conversation.send(frames.BLOCK, codec.block_payload(f"cid{number}", b"\0" * (number * 4000)))
            conversation.send(frames.END)
            return conversation.answer()

    answer = _ask(tmp_path, ask)
    assert answer == {"blocks": [[f"cid{number}", number * 4000] for number in range(40)], "end": True}


def test_events_stream_and_the_answer_is_the_last(tmp_path: Path) -> None:
    numbers = _ask(tmp_path, lambda home: [e["number"] for e in client.events(home, "count", "look", to=50)])
    assert numbers == list(range(51))


def test_content_streams_in_constant_pieces(tmp_path: Path) -> None:
    sizes = _ask(
        tmp_path, lambda home: [len(part) for part in client.download(home, "content", times=9, size=1 << 20)]
    )
    assert sizes == [1 << 20] * 9


def test_a_long_answer_crosses_in_pieces(tmp_path: Path) -> None:
    text = "ö" * (1 << 20) + "x"
    answer = codec.object_frames(frames.ANSWER, {"text": text})
    assert [kind for kind, _ in answer] == [frames.DATA] * 4 + [frames.ANSWER]
    assert all(len(payload) <= frames.MAX_PAYLOAD for _, payload in answer)

    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        async def echo(request: dict[str, Any], fds: list[int], channel: ControlChannel) -> dict[str, Any]:
            await channel.send({"text": text})
            return {"text": text * 2}

        daemon.echo = echo  # type: ignore[method-assign]
        found = await asyncio.to_thread(lambda: [e["text"] for e in client.events(home, "echo", "")])
        assert found == [text, text * 2]

    _run(tmp_path, test)


def test_the_daemons_error_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OutOfPaper, match=r"No paper in two \{x\}\.") as caught:
        _ask(tmp_path, lambda home: client.call(home, "fail"))
    assert caught.value.exit_code == 9


def test_an_error_after_content_began_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutOfPaper, match="three"):
        _ask(tmp_path, lambda home: list(client.download(home, "content", times=3, size=70000, fail=True)))


def test_a_bug_shows_its_traceback_to_the_log_and_not_to_the_client(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(IpdcError, match="A bug in the daemon: ZeroDivisionError"):
        _ask(tmp_path, lambda home: client.call(home, "bug"))
    assert "1 // 0" in capfd.readouterr().err


def test_a_client_that_leaves_cancels_its_handler(tmp_path: Path) -> None:
    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        conversation = await asyncio.to_thread(client.Conversation, home)
        conversation.request("wait", {})
        await daemon.waiting.wait()
        assert not daemon.cancelled.is_set()
        conversation.__exit__(None, None, None)
        await eventually_async(lambda: not server.connections, "the connection's end")
        assert daemon.cancelled.is_set()

    _run(tmp_path, test)


def test_a_client_that_stops_reading_holds_only_itself_up(tmp_path: Path) -> None:
    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        stuck = await asyncio.to_thread(client.Conversation, home)
        stuck.request("content", {"times": 1000, "size": 1 << 20})
        answer = await asyncio.to_thread(client.call, home, "echo")
        assert answer["uid"] == os.getuid()
        await eventually_async(lambda: server.connections == 1, "only the stuck client is left")
        stuck.__exit__(None, None, None)
        await eventually_async(lambda: not server.connections, "the stuck client's end")

    _run(tmp_path, test)


def test_closing_the_server_ends_what_waits(tmp_path: Path) -> None:
    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        waiting = asyncio.create_task(asyncio.to_thread(client.call, home, "wait"))
        await daemon.waiting.wait()
        await server.close()
        with pytest.raises(DaemonLost, match="went away in the middle"):
            await waiting
        assert daemon.cancelled.is_set()

    _run(tmp_path, test)


def _let_go(connection: socket.socket) -> bool:
    """Whether the other side ended the connection, with an answer or without."""
    connection.settimeout(5)
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("ticks", range(8))
def test_whoever_comes_while_the_server_closes_is_let_go(tmp_path: Path, ticks: int) -> None:
    """The daemon may begin anew in the same process: a connection that nobody knows of would stay open for ever."""
    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        await asyncio.sleep(0)  # it listens in its own task
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(home.control_socket)
            late.sendall(frames.encode_json(frames.REQUEST, {"operation": "wait"}))
            for _ in range(ticks):
                await asyncio.sleep(0)
            await server.close()
            assert _let_go(late), "its connection is still open"

    gc.disable()
    try:
        _run(tmp_path, test)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "first, words",
    [
        (b"\x20\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (b"GET /", "no frame kind 71"),
        (b"\x24\0\0\0\0", "the first frame is END"),
        (b"\x20\0\0\0\x02[]", "not an object"),
        (b"\x20\0\0\0\x02{}", "names no operation"),
        (b'\x20\0\0\0\x13{"operation":"a.b"}', "names no operation"),
        (b"\x20\0\0\0\x02\xff{", "not JSON"),
        (b"\x20\0\0\x80\x00" + b"[" * 0x8000, "not JSON"),
    ],
)
def test_hostile_requests_are_refused_with_words(tmp_path: Path, first: bytes, words: str) -> None:
    def ask(home: Home) -> None:
        with client.Conversation(home) as conversation:
            conversation.frames.sock.sendall(first)
            conversation.answer()

    with pytest.raises(BadRequest) as caught:
        _ask(tmp_path, ask)
    assert words in str(caught.value)


def test_a_frame_that_breaks_the_protocol_later_ends_the_handler(tmp_path: Path) -> None:
    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        def ask() -> None:
            with client.Conversation(home) as conversation:
                conversation.request("wait", {})
                conversation.frames.sock.sendall(b"\xff" * 5)
                conversation.answer()

        with pytest.raises(ControlBroken, match="no frame kind 255"):
            await asyncio.to_thread(ask)
        assert daemon.cancelled.is_set()

    _run(tmp_path, test)


def test_a_silent_client_is_told_so_and_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.01)

    def ask(home: Home) -> None:
        with client.Conversation(home) as conversation:
            conversation.answer()

    with pytest.raises(BadRequest, match=r"more than 0\.01 s"):
        _ask(tmp_path, ask)


def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECTIONS", 1)

    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        first = await asyncio.to_thread(client.Conversation, home)
        first.request("wait", {})
        await daemon.waiting.wait()
        with pytest.raises(IpdcError, match="serves 1 clients already") as caught:
            await asyncio.to_thread(client.call, home, "echo")
        assert caught.value.retry
        first.__exit__(None, None, None)

    _run(tmp_path, test)


def test_one_home_has_one_daemon(tmp_path: Path) -> None:
    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        with pytest.raises(DaemonRunning, match="another IPDC_HOME"):
            await ControlServer(home.control_socket, daemon.handle).start()
        assert (await asyncio.to_thread(client.call, home, "echo"))["uid"] == os.getuid()

    _run(tmp_path, test)


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "run" / "control.sock"))
    assert _ask(tmp_path, lambda home: client.call(home, "echo"))["uid"] == os.getuid()


def test_a_file_in_the_way_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "control.sock").write_text("precious")

    async def test(home: Home, daemon: Daemon, server: ControlServer) -> None:
        pytest.fail("it listens where somebody's file was")

    with pytest.raises(SocketNotMade, match="no socket is in the way"):
        _run(tmp_path, test)
    assert (tmp_path / "run" / "control.sock").read_text() == "precious"


def test_without_a_daemon_the_error_says_what_to_type(tmp_path: Path) -> None:
    home = Home({"IPDC_HOME": str(tmp_path)})
    with pytest.raises(NoDaemon, match=f"IPDC_HOME={tmp_path} ipdc-edge run --with-broker") as caught:
        client.call(home, "jobs")
    assert caught.value.exit_code == 3
    assert not client.running(home)


def test_without_the_right_to_connect_the_error_says_which_line_helps(tmp_path: Path) -> None:
    def ask(home: Home) -> None:
        os.chmod(home.control_socket, 0)
        if os.geteuid() == 0:  # root may connect whatever the mode
            os.seteuid(65534)
            try:
                client.call(home, "echo")
            finally:
                os.seteuid(0)
        client.call(home, "echo")

    with pytest.raises(NotAllowed, match=r"You may not use .*control\.sock.*sudo usermod -aG \w+ \w+"):
        _ask(tmp_path, ask)


def test_who_was_taken_into_the_group_after_the_login_is_told_to_log_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = client.user_name()
    monkeypatch.setattr(grp, "getgrnam", lambda name: grp.struct_group((name, "x", 4242, [user])))
    text = str(client.not_allowed(str(tmp_path), groups=[1]))
    assert f"{user} is in it, but this session began before" in text and "usermod" not in text
    assert "usermod" in str(client.not_allowed(str(tmp_path), groups=[4242])), "it has the group, and is refused"
