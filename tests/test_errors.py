"""Errors: the docstring is the message, and an error survives the control socket."""

from __future__ import annotations

import gc
import json

import pytest

from ipdc_edge import errors
from ipdc_edge.errors import IpdcError, NoDaemon, NotPlaced, RemoteError, WrongUsage


class _Parent(IpdcError):
    """Cannot open {path}: {reason}."""

    exit_code = 7
    retry = True


class _Child(_Parent):
    pass


def _across(error: IpdcError) -> IpdcError:
    return IpdcError.from_dict(json.loads(json.dumps(error.to_dict())))


def test_the_docstring_is_the_message_on_one_line() -> None:
    assert str(_Parent(path="/x", reason="it is {not} there")) == "Cannot open /x: it is {not} there."


def test_a_class_without_docstring_speaks_with_its_parents_words() -> None:
    assert str(_Child(path="a", reason="b")) == "Cannot open a: b."


def test_exit_codes_of_the_contract() -> None:
    assert IpdcError(reason="x").exit_code == 1
    assert WrongUsage(reason="x").exit_code == 2
    assert NoDaemon(socket="s", start="ipdc-edge run").exit_code == 3
    assert NotPlaced(reason="x").exit_code == 4


def test_every_error_has_a_message_that_names_its_details() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, IpdcError):
            assert kind.__doc__ and "{" in kind.__doc__, name


def test_a_known_error_comes_back_as_its_class() -> None:
    back = _across(_Parent(path="/x", reason="gone"))
    assert type(back) is _Parent
    assert back.details == {"path": "/x", "reason": "gone"}
    assert (str(back), back.exit_code, back.retry) == ("Cannot open /x: gone.", 7, True)


def test_a_name_that_two_parts_have_is_neither_of_them_but_what_all_may_raise_is_itself() -> None:
    """One process may have loaded both, in whichever order."""
    class Twice(IpdcError):
        """One: {reason}"""

    first = Twice

    class Twice(IpdcError):  # type: ignore[no-redef]
        """Another: {reason}"""

    class NotAllowed(IpdcError):
        """Not that of errors.py: {reason}"""

    try:
        back = _across(first(reason="x"))
        assert type(back) is RemoteError and str(back) == "One: x"
        back = _across(errors.NotAllowed(path="p", group="g", help="h"))
        assert type(back) is errors.NotAllowed
    finally:
        del first, Twice, NotAllowed
        gc.collect()  # they are no subclasses any more


def test_an_error_that_only_the_daemon_knows_keeps_name_message_and_code() -> None:
    answer = {"name": "StoreFull", "message": "full", "details": {"quota": 3}, "exit_code": 9, "retry": True}
    back = IpdcError.from_dict(answer)
    assert type(back) is RemoteError
    assert (str(back), back.exit_code, back.retry) == ("full", 9, True)
    assert back.to_dict()["name"] == "StoreFull"


def test_details_of_another_version_fall_back_to_the_finished_message() -> None:
    answer = {"name": "NotPlaced", "message": "as it was", "details": {"why": 1}, "exit_code": 4}
    back = IpdcError.from_dict(answer)
    assert (type(back), str(back), back.exit_code) == (RemoteError, "as it was", 4)


def test_an_unknown_job_may_or_may_not_list_what_there_is() -> None:
    assert str(errors.UnknownJob(id="x")) == "No job here has the id 'x', or begins or ends with it."
    assert str(_across(errors.UnknownJob(id="x", known="There are: y"))).endswith("There are: y")


def test_details_that_json_does_not_know_go_as_text() -> None:
    back = _across(_Parent(path=b"\xff", reason=[1, OSError(2, "no")]))
    assert back.details == {"path": "b'\\xff'", "reason": [1, "[Errno 2] no"]}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        3,
        [],
        "boom",
        {},
        {"name": 5},
        {"name": "NotPlaced", "details": {"self": 1}},
        {"name": "IpdcError", "details": {"reason": {"a": [1]}}},
        {"name": "X", "exit_code": True, "message": None},
        {"name": "X", "exit_code": 0},
        {"name": "X", "exit_code": 10**30},
        {"name": "X", "message": "m" * 10**6},
    ],
)
def test_from_dict_is_total_and_bounded(answer: object) -> None:
    error = IpdcError.from_dict(answer)
    assert isinstance(error, IpdcError)
    assert 1 <= error.exit_code <= 125
    assert 0 < len(str(error)) <= errors.MESSAGE_LIMIT
