"""The directory identity/: made once by a child, read without `cryptography`, written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ipdc_edge.codec import member_list
from ipdc_edge.drivers import authority, identity
from ipdc_edge.home import Home
from tests.drivers.nodes import admit, current, make_creator, make_home, make_node, tree

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_start_makes_a_key_and_a_domain_of_one(tmp_path: Path) -> None:
    home = make_home(tmp_path, "one")
    made = identity.ensure(home, "pi")
    assert made.alone and made.has_authority and made.domain == "alone" and made.peers == {}
    member = made.members.member(made.id)
    assert member is not None and (member.name, member.portal, len(made.members.members)) == ("pi", True, 1)
    assert member.memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert made.members.portals == (made.id,) and made.members.authority == made.authority


def test_it_stays_and_the_next_start_makes_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_node(tmp_path, "one")
    before = tree(home)
    monkeypatch.setattr(identity, "child_command", lambda *words: ["/bin/false"])
    assert identity.ensure(home, "other") == identity.load(home)
    assert tree(home) == before


def test_a_start_that_was_cut_off_is_finished_with_the_same_key(tmp_path: Path) -> None:
    home = make_home(tmp_path, "one")
    node = authority.make_key(home)
    os.unlink(os.path.join(home.identity, "key.pub"))  # the power went between the two files
    assert identity.ensure(home, "pi").id == node


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    identity.write_peers(current(home), {identity.own_id(home): ("a:1", "a:2")})
    for directory, names, files in os.walk(home.identity):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700, directory
        for name in files:
            assert stat.S_IMODE(os.lstat(os.path.join(directory, name)).st_mode) == 0o600, name
            assert not name.endswith(".new")
        assert names is not None


def test_nothing_made_yet_is_said_so(tmp_path: Path) -> None:
    home = make_home(tmp_path, "one")
    with pytest.raises(identity.NoIdentity, match=r"key\.pub"):
        identity.load(home)
    authority.make_key(home)
    with pytest.raises(identity.NoIdentity, match="current"):
        identity.load(home)


@pytest.mark.parametrize("name", ["key.pub", "current/members.json"])
@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xfe", bytes(2 << 20)], ids=["none", "text", "bytes", "long"])
def test_a_broken_file_is_named_and_kept(tmp_path: Path, name: str, content: bytes) -> None:
    home = make_node(tmp_path, "one")
    path = os.path.join(os.path.realpath(home.identity), name)
    Path(path).write_bytes(content)
    with pytest.raises(identity.IdentityBroken, match=os.path.basename(path)) as caught:
        identity.ensure(home, "pi")
    assert ("more than 1048576 bytes" in str(caught.value)) == (len(content) > 1 << 20)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("name", ["node.pem", "authority.pem"])
def test_a_missing_certificate_is_named(tmp_path: Path, name: str) -> None:
    home = make_node(tmp_path, "one")
    os.unlink(os.path.join(current(home), name))
    with pytest.raises(identity.IdentityBroken, match=f"{name} is not.*missing"):
        identity.load(home)


def test_a_list_of_another_authority_in_the_directory_is_broken(tmp_path: Path) -> None:
    one, two = make_creator(tmp_path, "one"), make_creator(tmp_path, "two")
    Path(current(one), "members.json").write_bytes(identity.load(two).signed)
    with pytest.raises(identity.IdentityBroken, match="of the authority"):
        identity.load(one)


def test_what_ensure_cannot_do_comes_with_the_childs_error(tmp_path: Path) -> None:
    home = make_home(tmp_path, "one")
    Path(home.identity, "key.pem").write_text("nonsense")
    with pytest.raises(identity.IdentityBroken, match=r"key\.pem"):
        identity.ensure(home, "pi")


def test_a_child_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no module named cryptography')"]
    monkeypatch.setattr(identity, "child_command", lambda *words: command)
    with pytest.raises(identity.IdentityNotMade, match="cryptography"):
        identity.ensure(make_home(tmp_path, "one"), "pi")


def test_a_newer_list_replaces_an_older_one_and_never_the_other_way(tmp_path: Path) -> None:
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    first = identity.load(home).signed
    second = admit(home, guest, "two").signed
    third = admit(home, guest, "two").signed
    assert identity.load(home).members.version == 3
    assert not identity.store_members(home, first) and not identity.store_members(home, third)
    assert identity.load(home).signed == third
    Path(current(home), "members.json").write_bytes(first)
    assert identity.store_members(home, third) and identity.load(home).signed == third
    assert not identity.store_members(home, second)


def test_a_list_of_another_authority_is_never_kept(tmp_path: Path) -> None:
    one, two = make_creator(tmp_path, "one"), make_creator(tmp_path, "two")
    admit(two, one, "one")
    before = tree(one)
    with pytest.raises(identity.ForeignMemberList):
        identity.store_members(one, identity.load(two).signed)
    with pytest.raises(member_list.BadMemberList):
        identity.store_members(one, b"{}")
    assert tree(one) == before


def test_a_domain_that_is_forgotten_leaves_the_node_alone_with_its_key(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    before = identity.load(home)
    identity.forget(home, "QmAnother")
    assert identity.load(home) == before
    identity.forget(home, before.authority)
    with pytest.raises(identity.NoIdentity):
        identity.load(home)
    now = identity.ensure(home, "one")
    assert now.alone and now.id == before.id and os.path.exists(before.certificate)


def test_peers_are_kept_and_a_broken_file_of_them_is_none(tmp_path: Path) -> None:
    home = make_node(tmp_path, "one")
    peers = {identity.own_id(home): ("10.0.0.1:18830", "10.0.0.1:18831")}
    identity.write_peers(current(home), peers)
    assert identity.load(home).peers == peers
    bad_address = json.dumps({identity.own_id(home): ["a:1", "a b"]})
    for text in ("", "[]", "5", '{"x": ["a:1", "a:2"]}', bad_address, "[" * 99999):
        Path(current(home), "peers.json").write_text(text)
        assert identity.load(home).peers == {}, text


CHANGES = """
import sys
from ipdc_edge.home import Home
from ipdc_edge.drivers import authority
creator, node = (Home({"IPDC_HOME": path}) for path in sys.argv[1:])
request = authority.signing_request(node)
for _ in range(10):
    authority.admit(creator, request, "two", 5)
"""


def test_changes_at_once_from_two_processes_all_count(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    nodes = [make_node(tmp_path, name) for name in ("two", "three")]
    running = [
        subprocess.Popen([sys.executable, "-c", CHANGES, home.state, node.state], cwd=ROOT) for node in nodes
    ]
    assert [process.wait() for process in running] == [0, 0]
    found = identity.load(home).members
    assert (found.version, len(found.members), len(found.revoked)) == (21, 3, 18)


KILLED = """
import os, sys
from ipdc_edge.home import Home
from ipdc_edge.drivers import authority
step, calls = int(sys.argv[2]), 0
def dies(event, details):
    global calls
    if event in ("os.rename", "os.symlink", "os.unlink") or (event == "open" and str(details[0]).endswith(".new")):
        calls += 1
        if calls == step:
            os._exit(9)
sys.addaudithook(dies)
authority.create_domain(Home({"IPDC_HOME": sys.argv[1]}), "home", node_name="one", memory=5)
"""


def test_killed_at_any_step_the_node_is_in_the_old_domain_or_in_the_new_one(tmp_path: Path) -> None:
    """Each step of making a domain is the last of one process; who comes next reads a whole domain and can go on."""
    home = make_node(tmp_path, "one")
    before = identity.load(home)
    step = 0
    while True:
        step += 1
        code = subprocess.run([sys.executable, "-c", KILLED, home.state, str(step)], cwd=ROOT).returncode
        found = identity.load(home)
        assert found.id == before.id
        if code == 0:
            break
        assert code == 9 and found == before
    assert step > 10 and found.domain == "home" and not found.alone


def test_the_daemon_reads_it_without_heavy_modules() -> None:
    script = "import sys, ipdc_edge.drivers.identity; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"cryptography", "argparse", "subprocess", "ssl", "socket", "asyncio", "tempfile", "pathlib"}
    assert not heavy & set(done.stdout.split())


OWNER = """
import os, sys
from ipdc_edge.drivers import identity
from ipdc_edge.home import Home
identity.become_owner(Home({"IPDC_HOME": sys.argv[1]}))
print(os.getresuid(), os.getresgid(), os.getgroups())
"""


def test_root_becomes_the_owner_of_the_nodes_directory(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("does not apply: only root can become another user")
    home = make_home(tmp_path, "one")

    def become(path: str) -> str:
        command = [sys.executable, "-c", OWNER, path]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    before = f"{os.getresuid()} {os.getresgid()} {os.getgroups()}"
    assert become(home.state) == become(home.state + "/nowhere") == before
    os.chown(home.state, 12345, 23456)
    assert become(home.state) == "(12345, 12345, 12345) (23456, 23456, 23456) [23456]"


@pytest.mark.parametrize("act", ["load", "make_key"])
def test_who_may_not_use_it_is_told_to_use_sudo(tmp_path: Path, act: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("does not apply: only root can become another user")
    home = make_node(tmp_path, "one")
    os.chmod(home.state, 0o755)
    os.chmod(tmp_path, 0o755)
    child = os.fork()
    if child == 0:
        try:
            os.chroot(tmp_path)  # so that the directories above, which pytest closes, are not in the way
            os.setresuid(12345, 12345, 12345)
            {"load": identity.load, "make_key": authority.make_key}[act](Home({"IPDC_HOME": "/one"}))
        except identity.IdentityClosed as error:
            os._exit(0 if "sudo" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
