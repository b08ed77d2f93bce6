"""Compressed inputs as the text that they were: gz, bz2, xz, zst, streaming.

Owns decompression with bounded memory: at most PIECE bytes are made at a time, whatever a few bytes unfold to. Never
knows of lines. Several streams one after the other (as `cat` makes of files) are one text. The module for a format is
imported by the first file that needs it.
"""

from __future__ import annotations

from ipdc_edge.apps.mapreduce.lines import InputError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Read = Callable[[], bytes | bytearray | None]

PIECE = 256 * 1024  # bytes of text made at a time
SHOWN = 16 * 1024  # compressed bytes shown to a decompressor at a time: most keep what they have not used
MEMORY_SHARE = 2  # a decompressor may take up to half of the job's memory
MEGABYTE = 1024 * 1024
_ZSTD_PIECE = 128  # bytes; where only the `zstandard` package is: it knows no limit, and a block of 4 makes 128 KiB


class Damaged(InputError):
    """{input} is damaged, or no {kind}: {reason}, after {size} bytes of its text"""


class Truncated(InputError):
    """{input} is cut off: the {kind} data end too early, after {size} bytes of its text"""


class WindowTooBig(InputError):
    """{input} takes more memory to decompress than a runner with {memory} MB has: give the job more memory, or compress
    the file with a smaller window ({advice})"""


class NoDecompressor(InputError):
    """{input} is compressed by zstd, and Python {version} on this node has nothing for that: install the package
    python3-zstandard on the nodes, or have Python 3.14 there, or give the file as .gz, .bz2, .xz or uncompressed"""


def decompressed(read: Read, kind: str, name: str, memory: int) -> Callable[[], bytes]:
    """A function that gives the text's next bytes, then nothing. Damaged, Truncated, WindowTooBig, NoDecompressor.

    read: the compressed file's blocks; memory: bytes of the job's runner.
    """
    make = {"gz": _gz, "bz2": _bz2, "xz": _xz, "zst": _zst}.get(kind)
    if make is None:
        raise ValueError(f"no compression {kind!r}")
    return _Text(read, kind, name, memory, *make(name, memory)).read


class _Text:
    """One file. `new` makes an object like bz2.BZ2Decompressor for each stream in it; `padding`: what may stand behind
    a stream and is none; `errors`: what damaged data raise."""

    def __init__(
        self, read: Read, kind: str, name: str, memory: int,
        new: Callable[[], Any], padding: bytes, errors: tuple[type[Exception], ...],
    ) -> None:
        self._read = read
        self._kind = kind
        self._name = name
        self._memory = memory
        self._new = new
        self._padding = padding
        self._errors = errors
        self._stream: Any = None
        self._block: bytes | bytearray = b""
        self._at = 0
        self._size = 0
        self._began = False

    def read(self) -> bytes:
        """The next bytes of the text, at most some PIECE; nothing at its end."""
        while True:
            if self._stream is None and not self._begin():
                return b""
            shown = b""
            if self._stream.needs_input:
                shown = self._take(SHOWN)
                if not shown:
                    raise Truncated(input=self._name, kind=self._kind, size=self._size)
            text = self._decompress(shown)
            self._size += len(text)
            if self._stream.eof:
                self._give_back(self._stream.unused_data)
                self._stream = None
            if text:
                return text

    def _decompress(self, shown: bytes) -> bytes:
        try:
            return self._stream.decompress(shown, PIECE)  # type: ignore[no-any-return]
        except MemoryError:
            raise self._too_big() from None
        except self._errors as error:
            if "emory" in str(error):
                raise self._too_big() from None
            raise Damaged(input=self._name, kind=self._kind, reason=str(error), size=self._size) from None

    def _begin(self) -> bool:
        """Another stream, when there is one behind the padding."""
        while True:
            shown = self._take(SHOWN)
            if not shown:
                if not self._began:  # no file of any of these kinds is empty
                    raise Truncated(input=self._name, kind=self._kind, size=0)
                return False
            rest = shown.lstrip(self._padding) if self._began and self._padding else shown
            if rest:
                self._give_back(rest)
                self._stream = self._new()
                self._began = True
                return True

    def _take(self, count: int) -> bytes:
        if self._at >= len(self._block):
            self._block, self._at = self._read() or b"", 0
        taken = bytes(self._block[self._at : self._at + count])
        self._at += len(taken)
        return taken

    def _give_back(self, rest: bytes) -> None:
        """The last bytes that were taken: they lie before those that were not."""
        self._at -= len(rest)

    def _too_big(self) -> WindowTooBig:
        advice = {"xz": "xz -6 or less", "zst": "without --ultra and --long"}.get(self._kind, "a lower level")
        return WindowTooBig(input=self._name, memory=self._memory // MEGABYTE, advice=advice)


class _Gzip:
    """A gzip member (RFC 1952) with the attributes of bz2.BZ2Decompressor."""

    def __init__(self) -> None:
        import zlib

        self._zlib = zlib.decompressobj(31)
        self.needs_input = True

    def decompress(self, data: bytes, most: int) -> bytes:
        text = self._zlib.decompress(self._zlib.unconsumed_tail + data, most)
        self.needs_input = not self._zlib.unconsumed_tail and len(text) < most
        return text

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


def _gz(name: str, memory: int) -> tuple[Any, bytes, tuple[type[Exception], ...]]:
    import zlib

    return _Gzip, b"\0", (zlib.error,)


def _bz2(name: str, memory: int) -> tuple[Any, bytes, tuple[type[Exception], ...]]:
    from bz2 import BZ2Decompressor

    return BZ2Decompressor, b"", (OSError, EOFError)


def _xz(name: str, memory: int) -> tuple[Any, bytes, tuple[type[Exception], ...]]:
    import lzma

    def new() -> Any:
        return lzma.LZMADecompressor(memlimit=memory // MEMORY_SHARE)

    return new, b"\0", (lzma.LZMAError, EOFError)


def _zst(name: str, memory: int) -> tuple[Any, bytes, tuple[type[Exception], ...]]:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14

        most = max(10, (memory // MEMORY_SHARE).bit_length() - 1)
        options = {zstd.DecompressionParameter.window_log_max: min(most, 31)}
        return lambda: zstd.ZstdDecompressor(options=options), b"", (zstd.ZstdError, EOFError)
    except ImportError:
        pass
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        import sys

        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise NoDecompressor(input=name, version=version) from None

    def new() -> Any:
        return _Zstandard(zstandard.ZstdDecompressor(max_window_size=max(1024, memory // MEMORY_SHARE)))

    return new, b"", (zstandard.ZstdError,)


class _Zstandard:
    """A frame by the `zstandard` package with the attributes of bz2.BZ2Decompressor."""

    def __init__(self, decompressor: Any) -> None:
        self._object = decompressor.decompressobj()
        self._waiting = b""
        self.needs_input = True
        self.eof = False
        self.unused_data = b""

    def decompress(self, data: bytes, most: int) -> bytes:
        data = self._waiting + data
        pieces = []
        gathered = at = 0
        while at < len(data) and gathered < most:
            pieces.append(self._object.decompress(data[at : at + _ZSTD_PIECE]))
            gathered += len(pieces[-1])
            at += _ZSTD_PIECE
            if self._object.eof:
                self.eof = True
                self.unused_data = self._object.unused_data + data[at:]
                break
        self._waiting = b"" if self.eof else data[at:]
        self.needs_input = not self._waiting
        return b"".join(pieces)
