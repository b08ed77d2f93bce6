"""Input formats: what a map gets as a record.

    lines       map(offset, line)
    json        map(offset, object): one JSON text a line; lines of white space are none
    csv         map(offset, [str, ...]): one row a line, as the csv module's default dialect has it, strictly
    whole-file  map(name, bytes)

Owns parsing. For lines a carriage return before the newline is kept; json and csv take it as part of the line's
end. Modules that only one format needs are imported by it.
"""

from __future__ import annotations

from ipdc_edge.apps.mapreduce.source import FILE_SHARE, MEGABYTE, FileRefused, InputUnreadable, Source

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def source_of(kind: str) -> type[Source]:
    """The class for an input format. ValueError for one that is unknown (the daemon's bug)."""
    found = {"lines": Source, "json": JsonSource, "csv": CsvSource, "whole-file": FileSource}.get(kind)
    if found is None:
        raise ValueError(f"no input format {kind!r}")
    return found


class JsonSource(Source):
    """One JSON text a line."""

    format = "JSON"
    skips_blank = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        import json

        self.parse = json.JSONDecoder().decode

    def _parsed(self, line: str) -> object:
        try:
            return self.parse(line)  # type: ignore[misc]
        except ValueError as error:
            position = getattr(error, "pos", None)
            reason = str(error)
            if position is not None:  # without "line 1", which is one of ours
                reason = f"{reason.partition(': line')[0]}, at its character {position + 1}"
            raise self.unreadable(ValueError(reason)) from None
        except RecursionError:
            raise self.unreadable(ValueError("it is nested too deeply")) from None


class CsvSource(Source):
    """One row a line."""

    format = "CSV row"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        import csv

        csv.field_size_limit(1 << 30)  # lines are bounded
        reader = csv.reader

        def parse(line: str) -> object:
            return next(reader((line,), strict=True), [])

        self.parse = parse
        self._error = csv.Error

    def _parsed(self, line: str) -> object:
        try:
            return self.parse(line)  # type: ignore[misc]
        except self._error as error:
            raise self.unreadable(error) from None

    def unreadable(self, error: Exception) -> InputUnreadable:
        """With a hint where a field goes on in the next line."""
        place = self.position()
        hint = ""
        if "unexpected end of data" in str(error):
            hint = (
                " (a quoted field that goes over the end of its line? A line is a row here: read such files by"
                " --input-format whole-file and the csv module)"
            )
        return InputUnreadable(
            input=place.get("input"), offset=place.get("offset"), format=self.format, reason=str(error), hint=hint
        )


class FileSource(Source):
    """Each input as one record: its name, and its bytes."""

    format = "file"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.most_line = max(MEGABYTE, self._memory // FILE_SHARE)  # for commands, which get lines of it

    def chunks(self) -> Iterator[tuple[Iterator[Any], Iterator[Any]]]:
        """(names, contents), one at a time."""
        from io import BytesIO

        for source, read, _start, _end in self.opened():
            content = BytesIO()
            size = 0
            while block := read():
                size += len(block)
                if size > self.most_line:
                    raise FileRefused(input=self.name, most=self.most_line, memory=self._memory // MEGABYTE)
                content.write(block)
            held = [content.getvalue()]
            del content
            yield iter((self.name,)), iter(held)
            held.clear()
            self._count(source, 1, size)

    def line_chunks(self) -> Iterator[tuple[Iterator[int], Iterator[str]]]:
        """There are no lines."""
        return self.chunks()
