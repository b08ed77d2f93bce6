"""Inputs of inference as records, decoded one by one.

Owns what becomes of a file's bytes, and the words for what cannot be decoded. Lines and splits are Map-Reduce's: a CSV
file is cut like any text, everything else is one record a file and held in memory while it is worked on. """

from __future__ import annotations

from io import BytesIO

from ipdc_edge.apps.mapreduce.formats import CsvSource
from ipdc_edge.apps.mapreduce.source import FILE_SHARE, MEGABYTE, FileRefused, InputUnreadable
from ipdc_edge.apps.tflite.formats import AUTO, STARTS, format_by_start, format_of
from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MOST_PIXELS = 1 << 26  # of an image; a file of a few bytes may say that it has thousands of millions
MOST_REASON = 300  # characters


class Undecodable(InputUnreadable):
    """{input} is no {format} that can be decoded: {reason}"""


class NoPillow(IpdcError):
    """{input} is an image, and Pillow, which decodes those, {reason} on this node: `sudo apt install python3-pil`, or
    with pip into /var/lib/ipdc/venv"""


class File:
    """A whole file that is not decoded yet."""

    def __init__(self, kind: str, content: bytes) -> None:
        self.kind, self.content = kind, content


class InferenceSource(CsvSource):
    """All inputs of a task. Keys are the names of files; (name, byte offset) of rows."""

    skips_blank = True
    wanted = AUTO  # a subclass says what the job says

    def chunks(self) -> Iterator[tuple[Iterator[Any], Iterator[Any]]]:
        """(keys, decoded records) of each chunk."""
        for keys, records in self.line_chunks():
            yield keys, map(self.record, records)

    def line_chunks(self) -> Iterator[tuple[Iterator[Any], Iterator[Any]]]:
        """(keys, rows of text or a File)."""
        inputs = self._inputs
        read = self._read
        for number, item in enumerate(inputs):
            kind = format_of(str(item.get("name")), self.wanted)
            # one input at a time goes to those who know what rows are, or files
            self._inputs, self._read = [item], lambda stream, number=number: read(number)  # type: ignore[misc]
            self.format = "CSV row"
            if kind == "csv":
                for offsets, lines in super().line_chunks():
                    name = str(self.name)
                    yield ((name, offset) for offset in offsets), lines
            else:
                yield from self._file(kind)
        self._inputs, self._read = inputs, read

    def _file(self, kind: str) -> Iterator[tuple[Iterator[Any], Iterator[Any]]]:
        most = max(MEGABYTE, self._memory // FILE_SHARE)
        for source, read, _start, _end in self.opened():
            gathered = BytesIO()
            while block := read():
                if gathered.tell() + len(block) > most:
                    raise FileRefused(input=self.name, most=most, memory=self._memory // MEGABYTE)
                gathered.write(block)
            content = gathered.getvalue()
            del gathered
            size = len(content)
            held = [File(kind, content)]
            del content
            yield iter((str(self.name),)), iter(held)
            held.clear()
            self._count(source, 1, size)

    def record(self, line: Any) -> object:
        """A record as Pre.py gets it. InputUnreadable, NoPillow."""
        if not isinstance(line, File):
            return super().record(line)
        kind = line.kind if line.kind != AUTO else format_by_start(line.content[: max(map(len, STARTS))])
        if kind == AUTO:
            raise self._undecodable("image, .npy or CSV", "neither its name nor its first bytes say what it is; "
                                    "--input-format does")
        if kind == "raw":
            return line.content
        return self._image(line.content) if kind == "image" else self._array(line.content)

    def _undecodable(self, kind: str, reason: object) -> Undecodable:
        words = " ".join(str(reason).split())[:MOST_REASON] or type(reason).__name__
        return Undecodable(input=self.name, format=kind, reason=words)

    def _array(self, content: bytes) -> object:
        import numpy

        try:
            array = numpy.load(BytesIO(content), allow_pickle=False)
            if not isinstance(array, numpy.ndarray):
                raise ValueError("it holds several arrays")
        except (ValueError, OSError, EOFError, SyntaxError, KeyError, TypeError) as error:
            raise self._undecodable(".npy array", error) from None
        return array

    def _image(self, content: bytes) -> object:
        import numpy

        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError as error:
            reason = "is missing" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
            raise NoPillow(input=self.name, reason=reason) from None
        try:
            image = Image.open(BytesIO(content), formats=("PNG", "JPEG"))
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has {image.width} times {image.height} pixels, more than {MOST_PIXELS}")
            if image.mode[0] in "IF":  # made bytes of, nearly all of it would be white
                raise ValueError(f"its pixels are no bytes (mode {image.mode}); with --input-format raw Pre.py has it")
            if image.mode not in ("L", "RGB"):
                image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
            array = numpy.asarray(image)
        except UnidentifiedImageError:  # its own words name an object in memory
            raise self._undecodable("PNG or JPEG image", "it does not begin as one") from None
        except MemoryError:
            raise
        except Exception as error:  # Pillow has no family of errors: OSError, SyntaxError, ValueError, ...
            raise self._undecodable("PNG or JPEG image", error) from None
        return array[:, :, None] if array.ndim == 2 else array
