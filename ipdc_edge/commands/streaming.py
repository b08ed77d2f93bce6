"""The commands of --mapper, --combiner and --reducer, as in Hadoop Streaming: text becomes a list of words, and
the files among them travel.

Owns which word is a file, and what is wrong with a command before any node has seen it. No shell reads these
words, here or there, and nothing of them is run here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil

from ipdc_edge.apps.mapreduce.command_program import BY_SUFFIX, PATH
from ipdc_edge.commands.program import Files, ProgramBroken, nearest_file, unreadable
from ipdc_edge.errors import IpdcError, WrongUsage

SYSTEM = ("/bin/", "/sbin/", "/usr/", "/lib/")  # what lies here is installed, not written for the job
ELF = b"\x7fELF"
OPERATORS = re.compile(r"[|&;<>]+")
INTERPRETERS = re.compile(r"python[0-9.]*|sh|bash|dash|perl|ruby|lua|node|php|Rscript")


class NoSuchProgram(IpdcError):
    """{flag}: there is no program {program!r}, neither as a file here nor on the PATH.{hint}"""


class NoSuchScript(IpdcError):
    """{flag}: there is no file {script} here that could travel with the job, for {program} to run.{hint}"""


class NotExecutable(IpdcError):
    """{flag}: {path} {reason}"""


def command(flag: str, text: str, files: Files) -> list[str]:
    """The words of a command, with files named as they travel. Raises WrongUsage, NoSuchProgram,
    NoSuchScript, NotExecutable, FileUnreadable or CannotTravel."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise WrongUsage(reason=f"{flag} {text}: {error}. Quotes come in pairs.") from error
    if not words or not words[0]:
        raise WrongUsage(reason=f"{flag} is empty. For example: {flag} 'python3 {flag.strip('-')}.py'")
    operators = [word for word in _unquoted(text) if OPERATORS.fullmatch(word)]
    if operators:
        inner = "sh -c " + shlex.quote(text)
        plainly = "'" in inner and not set(text) & set("'\"$`\\!")
        wrapped = f'"{inner}"' if plainly else shlex.quote(inner)
        raise WrongUsage(reason=f"{flag} {text}: no shell reads this, so {operators[0]} would be a word for the "
                         f"program. Write {flag} {wrapped}, or quote the {operators[0]}.")
    program = _program(flag, words[0], files)
    if INTERPRETERS.fullmatch(program) and len(words) > 1:
        _demand_script(flag, program, words[1], files)
    return [program, *(_argument(word, words[0], files) for word in words[1:])]


def _demand_script(flag: str, program: str, word: str, files: Files) -> None:
    """NoSuchScript for what an interpreter would look for in vain: in its working directory lies what travels."""
    if word.startswith("-") or os.path.isabs(word) or os.path.isfile(word) or os.path.normpath(word) in files.paths:
        return
    raise NoSuchScript(flag=flag, script=word, program=program, hint=nearest_file(word))


def _unquoted(text: str) -> list[str]:
    """The words with their quotes, and operators of a shell as words of their own."""
    lexer = shlex.shlex(text, posix=False, punctuation_chars="|&;<>")
    lexer.commenters = ""
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # a quote in the middle of a word, which these rules do not know
        return []


def _program(flag: str, word: str, files: Files) -> str:
    """The first word: a file that travels, or a program that is installed here and so, one hopes, there."""
    name = os.path.normpath(word)
    if name in files.paths:
        _check_start(flag, files.paths[name])
        return name
    if os.path.isfile(word):
        if word.startswith(SYSTEM):
            return word
        _check_start(flag, word)
        return _ship(word, "", files)
    if "/" not in word and (shutil.which(word, path=PATH) or word in ("python", "python2")):  # there: python3
        return word
    own = shutil.which(word) if "/" not in word else None
    if own:
        raise NotExecutable(flag=flag, path=word, reason=f"is {own} here; nodes look in {PATH} only. Let it travel: "
                            f"--file {shlex.quote(own)}")
    if os.path.isdir(word):
        raise NotExecutable(flag=flag, path=word, reason="is a directory.")
    raise NoSuchProgram(flag=flag, program=word, hint=nearest_file(word) or _nearest_program(word))


def _argument(word: str, program: str, files: Files) -> str:
    """Any further word: a relative path of a regular file travels, everything else stays as it is."""
    if os.path.isabs(word) or os.path.normpath(word) in files.paths or not os.path.isfile(word):
        return word
    return _ship(word, program, files)


def _ship(path: str, interpreter: str, files: Files) -> str:
    """Takes the file, and with a script in Python the modules beside it that it imports; its name there."""
    if path.endswith(".py"):
        try:
            return files.python(path).name
        except ProgramBroken:  # of another Python than this one?
            if "python3" in os.path.basename(interpreter) or b"python3" in _start(path).split(b"\n")[0]:
                raise
    return files.ship(path)


def _check_start(flag: str, path: str) -> None:
    """NotExecutable for what no node will know how to start, or what its shell will not understand."""
    start = _start(path)
    if start.startswith(ELF):
        return
    line = start.split(b"\n")[0]
    kind = os.path.splitext(path)[1]
    if not line.startswith(b"#!") and kind not in BY_SUFFIX:
        raise NotExecutable(flag=flag, path=path, reason="says not what runs it: give it a first line like "
                            f"#!/usr/bin/env python3, or a name that ends in {', '.join(BY_SUFFIX)}.")
    if line.endswith(b"sh\r") or (kind == ".sh" and line.endswith(b"\r")):
        raise NotExecutable(flag=flag, path=path, reason="has lines that end with CR LF, as Windows writes them, which "
                            f"no shell understands. Convert it: sed -i 's/\\r$//' {shlex.quote(path)}")


def _start(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(256)
    except OSError as error:
        raise unreadable(path, error) from error


def _nearest_program(word: str) -> str:
    """" Did you mean ...?" where a program of nearly that name is on the PATH."""
    import difflib

    names: set[str] = set()
    for directory in PATH.split(":"):
        try:
            names.update(os.listdir(directory))
        except OSError:
            continue  # a PATH may name what is not there
    near = difflib.get_close_matches(os.path.basename(word), sorted(names), 1, 0.75)
    return f" Did you mean {near[0]}?" if near else " Ship it with --file, or install it here and on the nodes."
