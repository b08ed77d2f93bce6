"""The documents name what is there: every command, every setting, every file that they point to."""

from __future__ import annotations

import os
import re

from ipdc_edge.__main__ import COMMANDS

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def text(*path: str) -> str:
    with open(os.path.join(TOP, *path), encoding="utf-8") as file:
        return file.read()


def test_every_command_is_in_the_readme_and_the_man_page() -> None:
    manual = text("docs", "ipdc-edge.1").replace("\\-", "-")
    readme = text("README.md")
    for command in COMMANDS:
        assert re.search(rf"^\.(B|BI|BR) \"?{command}\b", manual, re.MULTILINE), command
        assert re.search(rf"^\| .*`{command}\b", readme, re.MULTILINE), command


def test_every_module_that_the_architecture_names_is_there() -> None:
    for line in text("ARCHITECTURE.md").splitlines():
        for name in re.findall(r"`((?:\w+/)+\w+\.(?:py|md))`", line):
            places = [os.path.join(TOP, name), os.path.join(TOP, "ipdc_edge", name)]
            assert any(os.path.exists(place) for place in places), name


def test_every_module_of_the_core_opens_with_what_it_owns() -> None:
    for folder, _, names in os.walk(os.path.join(TOP, "ipdc_edge")):
        for name in names:
            if name.endswith(".py") and not name.startswith("__init__"):
                assert text(folder, name).startswith('"""'), os.path.join(folder, name)
