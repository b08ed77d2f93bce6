"""The passphrase of a backup: asked for twice on a terminal, else read from a file or a pipe.

Owns only that. It never stands in arguments, which every user of the machine can see, nor in the environment.
"""

from __future__ import annotations

import os
import sys

from ipdc_edge.errors import IpdcError, WrongUsage

TERMINAL = "/dev/tty"
LEAST = 8  # characters
MOST = 1024  # bytes


class PassphraseTooShort(IpdcError):
    """The passphrase has fewer than {least} characters. Who has the backup and guesses it owns the domain."""

    exit_code = 2


class PassphrasesDiffer(IpdcError):
    """The two passphrases are not the same. Nothing was written."""

    exit_code = 2


class PassphraseUnreadable(IpdcError):
    """Cannot read the passphrase from {path}: {reason}."""


def read(path: str | None, *, twice: bool, stdin_taken: bool) -> bytes:
    """The first line of the file `path`; without one, asked for on a terminal (`twice` where a mistake would lock the
    backup for ever), or the first line of a pipe, unless that brings the backup itself (`stdin_taken`)."""
    if path is not None:
        found = _from_file(path)
    elif sys.stdin.isatty() or stdin_taken:
        found = _ask(twice)
    else:
        found = sys.stdin.buffer.readline(MOST + 1)
    line = found.rstrip(b"\r\n")
    if len(line) > MOST:
        raise WrongUsage(reason=f"The passphrase has more than {MOST} bytes.")
    if len(line.decode("utf-8", "replace")) < LEAST:
        raise PassphraseTooShort(least=LEAST)
    return line


def _from_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.readline(MOST + 1)
    except OSError as error:
        raise PassphraseUnreadable(path=path, reason=error.strerror or str(error)) from error


def _ask(twice: bool) -> bytes:
    import getpass

    try:
        os.close(os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY))
    except OSError as error:  # getpass would fall back to standard input, with an echo
        raise WrongUsage(reason="There is no terminal to ask for the passphrase on: --passphrase-file FILE") from error
    try:
        first = getpass.getpass("Passphrase of the backup: ")
        if twice and len(first) >= LEAST and getpass.getpass("Once more: ") != first:
            raise PassphrasesDiffer()
    except EOFError as error:
        raise WrongUsage(reason="No passphrase came from the terminal.") from error
    return first.encode("utf-8", "surrogateescape")
