"""Writes the documents that follow from the program's own tables, beside this file: `ipdc.conf.5`, `completion.bash`.

Owns their form. tests/test_documents.py holds the written files to what this makes, so that neither a setting nor an
option is ever missing in them. By hand: python3 -m docs.make
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Iterator

from ipdc_edge import __version__, settings
from ipdc_edge.__main__ import COMMANDS, PACKAGE
from ipdc_edge.daemon.service import LIVE

HERE = os.path.dirname(os.path.abspath(__file__))
HEAD = """\
.\\" Written by docs/make.py from the table in ipdc_edge/settings.py.
.TH IPDC.CONF 5 "November 2026" "ipdc-edge {version}" "File Formats"
.SH NAME
ipdc.conf \\- settings of a node of IPDC
.SH SYNOPSIS
.I /etc/ipdc/ipdc.conf
.br
.I $IPDC_HOME/ipdc.conf
.SH DESCRIPTION
Settings of
.BR ipdc-edge (1),
one a line:
.IR name " = " value .
A line that begins with # is a comment; nothing may follow a value.
What is not set has its default, and a node needs no settings at all.
Sizes are bytes; K, M, G and T are powers of 1024.
A name that does not exist, a value that is not allowed or a setting that stands there twice keeps the daemon from
starting, and
.B ipdc-edge doctor
says what is wrong, and in which line.
.PP
After a change:
.B systemctl reload ipdc-edge
takes up {live}; the journal says so.
The others wait for
.BR "systemctl restart ipdc-broker ipdc-edge" .
.SH SETTINGS
"""
TAIL = """\
.SH EXAMPLE
.nf
name = attic
slots = 1
runner_memory = 32M
store_quota = 2G
local_inputs = /var/log/sensors /srv/data
.fi
.SH SEE ALSO
.BR ipdc-edge (1),
.BR systemctl (1)
"""

# What completes an argument, by its metavar: a word of the compgen below
NODE, ID, FILE, DIRECTORY = "NODE", "ID", "FILE", "DIRECTORY"
KINDS = {"ID": ID, "NODE": NODE, "DIR": DIRECTORY, "PATH": FILE, "FILE": FILE, "MAP": FILE, "REDUCE": FILE, "F": FILE,
         "COMMAND": FILE, "[FILE:]FUNCTION": FILE, "PATH|CID": FILE}

BASH = r"""# bash completion for ipdc-edge(1). Written by docs/make.py from the commands' own options.

# Others choose the names of their nodes, and `compgen -W` runs a $(command) in its words: only plain words get there.
_ipdc_edge_plain() { LC_ALL=C command grep -xE '[A-Za-z0-9][A-Za-z0-9_.-]*'; }

# Ids are the names of directories: no daemon is asked, and the last four letters would do as well.
_ipdc_edge_ids() { command ls -1 "${IPDC_HOME:-/var/lib/ipdc}/jobs" 2>/dev/null | _ipdc_edge_plain; }

_ipdc_edge_nodes() {
    "$1" nodes --json 2>/dev/null | command sed -n 's/^ *"name": "\([^"]*\)".*/\1/p' | _ipdc_edge_plain
}

_ipdc_edge() {
    local cur prev words cword command options="" operand="" kind=""
    _init_completion -n = 2>/dev/null || {
        words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword - 1]}
    }
    if ((cword == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "@COMMANDS@ --help --version" -- "$cur")
        return
    fi
    command=${words[1]}
    case $command in
        @GROUPS@)
            if ((cword == 2)); then
                case $command in
@ACTIONS@
                esac
                mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
                return
            fi
            command+=" ${words[2]}"
            ;;
    esac
    case $command in
@OPTIONS@
    esac
    case "$command $prev" in
@VALUES@
        *) if [[ $cur == -* ]]; then kind="words $options"; else kind=$operand; fi ;;
    esac
    case $kind in
        words\ *) mapfile -t COMPREPLY < <(compgen -W "${kind#words }" -- "$cur") ;;
        ID) mapfile -t COMPREPLY < <(compgen -W "$(_ipdc_edge_ids)" -- "$cur") ;;
        NODE) mapfile -t COMPREPLY < <(compgen -W "$(_ipdc_edge_nodes "${words[0]}")" -- "$cur") ;;
        DIRECTORY) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        FILE) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    esac
}

complete -F _ipdc_edge ipdc-edge
"""


def settings_page() -> str:
    """The manual page of ipdc.conf, in man(7)."""
    live = ", ".join(f"\\fB{name}\\fR" for name in LIVE[:-1]) + f" and \\fB{LIVE[-1]}\\fR"
    parts = [HEAD.format(version=__version__, live=live)]
    for setting in settings.TABLE:
        text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", setting.help.replace("-", "\\-"))
        parts.append(f".TP\n.B {setting.name}\n{text}\n.br\nDefault: {setting.default or 'none'}. "
                     f"Allowed: {setting.allowed.replace('-', chr(92) + '-')}.\n".replace("`", ""))
    return "".join(parts) + TAIL


def parser_of(command: str) -> argparse.ArgumentParser:
    """The command's own parser."""
    parser = argparse.ArgumentParser(prog=command)
    importlib.import_module(PACKAGE + COMMANDS[command][0]).configure(parser)
    return parser


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """("submit", its parser), ("lab up", its parser), ..."""
    for command in COMMANDS:
        parser = parser_of(command)
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not below:
            yield command, parser
        for action in below:
            for name, found in action.choices.items():
                yield f"{command} {name}", found


def kind_of(action: argparse.Action) -> str:
    """What completes an argument: "words a b", one of KINDS' values, or "" for what only its user knows."""
    if action.choices:
        return "words " + " ".join(map(str, action.choices))
    metavar = action.metavar[0] if isinstance(action.metavar, tuple) else action.metavar or action.dest.upper()
    return KINDS.get(metavar, "")


def completion() -> str:
    """The file for bash-completion."""
    groups: dict[str, list[str]] = {}
    options, values = [], []
    for command, parser in parsers():
        first, _, action_name = command.partition(" ")
        if action_name:
            groups.setdefault(first, []).append(action_name)
        named = [action for action in parser._actions if action.option_strings]
        words = " ".join(word for action in named for word in action.option_strings)
        operand = next((kind_of(action) for action in parser._actions if not action.option_strings), "")
        options.append(f'        "{command}") options="{words}" operand="{operand}" ;;')
        for action in named:
            if action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction):
                pattern = "|".join(f'"{command} {word}"' for word in action.option_strings)
                values.append(f'        {pattern}) kind="{kind_of(action)}" ;;')
    actions = [f'                    {name}) options="{" ".join(found)}" ;;' for name, found in groups.items()]
    filled = {"COMMANDS": " ".join(COMMANDS), "GROUPS": " | ".join(groups), "ACTIONS": "\n".join(actions),
              "OPTIONS": "\n".join(options), "VALUES": "\n".join(values)}
    return re.sub("@([A-Z]+)@", lambda found: filled[found[1]], BASH)


MADE = {"ipdc.conf.5": settings_page, "completion.bash": completion}

if __name__ == "__main__":
    for name, make in MADE.items():
        with open(os.path.join(HERE, name), "w", encoding="utf-8") as file:
            file.write(make())
