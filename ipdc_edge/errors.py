"""Errors that a person can see: one class each, its docstring is the message.

Owns the base class and the errors that more than one part raises; a part's own errors subclass IpdcError in
its own module. Never decides what to do about an error: commands turn them into exit codes, the control
socket carries them by class name. A bug is not an IpdcError: it keeps its traceback.

Exit codes of the command line: 0 done, 1 failed, 2 usage, 3 no daemon, 4 not placed, 130 interrupted.
"""

from __future__ import annotations

MESSAGE_LIMIT = 8192  # characters of a message or a detail taken from another process


class IpdcError(Exception):
    """{reason}"""

    exit_code = 1  # what the command line exits with
    retry = False  # whether the same call may succeed later

    def __init__(self, **details: object) -> None:
        self.details = details
        super().__init__(_template(type(self)).format(**details).strip() or type(self).__name__)

    def to_dict(self) -> dict[str, object]:
        """As JSON for the control socket and job records: {"name", "message", "details", "exit_code", "retry"}."""
        details = {key: _plain(value) for key, value in self.details.items()}
        return {
            "name": type(self).__name__,
            "message": str(self),
            "details": details,
            "exit_code": self.exit_code,
            "retry": self.retry,
        }

    @staticmethod
    def from_dict(answer: object) -> IpdcError:
        """The error that to_dict described: of the same class where this process knows it, else a
        RemoteError that keeps its name, message and exit code. Total on any JSON value."""
        if not isinstance(answer, dict):
            return RemoteError(name="IpdcError", message=str(answer)[:MESSAGE_LIMIT])
        name = str(answer.get("name") or "IpdcError")[:100]
        details = answer.get("details")
        known = _known(IpdcError).get(name)
        if known is not None and isinstance(details, dict) and all(isinstance(key, str) for key in details):
            try:
                return known(**details)
            except (TypeError, LookupError, ValueError, AttributeError):
                pass  # another version's details: its finished message below serves as well
        error = RemoteError(name=name, message=str(answer.get("message") or name)[:MESSAGE_LIMIT])
        code = answer.get("exit_code")
        if isinstance(code, int) and 1 <= code <= 125:
            error.exit_code = code
        error.retry = answer.get("retry") is True
        return error


class RemoteError(IpdcError):
    """{message}"""

    def to_dict(self) -> dict[str, object]:
        """As the error that it stands for."""
        return {**super().to_dict(), "name": self.details["name"], "details": {}}


class WrongUsage(IpdcError):
    """{reason}"""

    exit_code = 2


class NoDaemon(IpdcError):
    """No ipdc-edge daemon answers at {socket}. Start it: `{start}`. For a look at what is wrong: `ipdc-edge
    doctor`."""

    exit_code = 3
    retry = True


class DaemonLost(IpdcError):
    """The daemon at {socket} went away in the middle of an answer. When it is back: {advice}."""

    exit_code = 3
    retry = True


class NotAllowed(IpdcError):
    """You may not use {path}. It belongs to group {group}: {help}"""


class DaemonRunning(IpdcError):
    """A daemon already answers at {socket}. One home has one daemon; another node wants another IPDC_HOME."""


class BadSpec(IpdcError):
    """the job's description is not valid: {reason}"""


class BadRequest(IpdcError):
    """The control socket got a request that it cannot read: {reason}."""


class ControlBroken(IpdcError):
    """The other side of the control socket broke the protocol: {reason}."""


class Busy(IpdcError):
    """The daemon serves {count} clients already, which is its limit. Try again later."""

    retry = True


class InternalError(IpdcError):
    """A bug in the daemon: {type}: {message}. Its log has the traceback."""


class NotPlaced(IpdcError):
    """No node takes the job: {reason}."""

    exit_code = 4
    retry = True


class JobFailed(IpdcError):
    """Job {id} failed: {reason}"""


class JobCancelled(IpdcError):
    """Job {id} was cancelled."""


class UnknownJob(IpdcError):
    """No job here has the id {id!r}, or begins or ends with it. {known}"""

    def __init__(self, id: object, known: object = "") -> None:
        super().__init__(id=id, known=known)


class AmbiguousId(IpdcError):
    """{id!r} is not one job but {count}: {candidates}"""

    exit_code = 2


def _template(kind: type[IpdcError]) -> str:
    """The message template: the nearest docstring, on one line; under `python -OO` there is none, so all details."""
    for cls in kind.__mro__:
        if cls is Exception:
            break
        if cls.__doc__:
            return " ".join(cls.__doc__.split())
    return kind.__name__


def _known(kind: type[IpdcError]) -> dict[str, type[IpdcError] | None]:
    """Every error class loaded in this process, by name; None where several have it, since nobody knows which is meant.
    What stands in this module is meant where it is one of them: it is what several parts raise."""
    found: dict[str, type[IpdcError] | None] = {kind.__name__: kind}
    for child in kind.__subclasses__():
        for name, known in _known(child).items():
            found[name] = known if name not in found or known is found[name] else None
    for name in [name for name, known in found.items() if known is None]:
        found[name] = globals().get(name)
    return found


def _plain(value: object) -> object:
    """A detail as JSON carries it; what JSON does not know goes as its text, shortened."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)[:MESSAGE_LIMIT]
