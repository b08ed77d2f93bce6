"""How the system calls users and groups. Their numbers, where it does not know them."""

from __future__ import annotations


def user(uid: int) -> str:
    """A user's name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group(gid: int) -> str:
    """A group's name."""
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
