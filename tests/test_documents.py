"""The documents name what is there: every command, every setting, every file that they point to."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from docs.make import MADE
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


@pytest.mark.parametrize("name", MADE)
def test_a_document_that_follows_from_a_table_is_as_the_table(name: str) -> None:
    assert text("docs", name) == MADE[name](), "run python3 -m docs.make"


@pytest.mark.parametrize("words, found", [
    ("sub", "submit"), ("lab ''", "up down"), ("lab up --no", "--nodes"), ("add LIC", "LICENSE"),
    ("submit --output-format ''", "text json raw"), ("submit Map.py --input LIC", "LICENSE"), ("doctor --j", "--json"),
    ("result 2026", "20261129-120000-abcd"), ("nosuch ''", ""), ("submit --args LIC", ""),
])
def test_bash_completes(words: str, found: str, tmp_path) -> None:
    (tmp_path / "jobs" / "20261129-120000-abcd").mkdir(parents=True)
    script = f"""cd {TOP}; source docs/completion.bash; COMP_WORDS=(ipdc-edge {words})
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); compopt() {{ :; }}; _ipdc_edge ipdc-edge; echo "${{COMPREPLY[*]}}" """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True,
                          env={**os.environ, "IPDC_HOME": str(tmp_path)})
    assert (done.stdout.strip(), done.stderr) == (found, "")


def test_bash_completes_names_of_nodes_and_runs_none_of_them(tmp_path) -> None:
    """Each node says its own name, and may lie."""
    ran = tmp_path / "ran"
    names = ["attic", f"$(touch${{IFS}}{ran})", f"`touch {ran}`", "kitchen-2"]
    told = "".join(f'    "name": "{name}",\n' for name in names)
    script = f"""cd {TOP}; source docs/completion.bash; ipdc-edge() {{ printf %s "$TOLD"; }}
        COMP_WORDS=(ipdc-edge nodes ""); COMP_CWORD=2; _ipdc_edge ipdc-edge; echo "${{COMPREPLY[*]}}" """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True,
                          env={**os.environ, "TOLD": told})
    assert (done.stdout.strip(), done.stderr, ran.exists()) == ("attic kitchen-2", "", False)
