"""`add` and `cat` over a real node: real CIDs, and the same memory for files of any size."""

from __future__ import annotations

import hashlib
import os
import subprocess

from tests.lab.conftest import PYTHON, ROOT, Lab

MB = 1 << 20


def daemon_memory(lab: Lab, node: int) -> int:
    """The highest resident set of a node's daemon so far, in bytes (VmHWM)."""
    with open(os.path.join(lab.home(node), "run", "daemon.pid")) as file:
        pid = int(file.read().split()[0])
    with open(f"/proc/{pid}/status") as file:
        return 1024 * int(next(line.split()[1] for line in file if line.startswith("VmHWM")))


def peak_of(lab: Lab, *words: str) -> tuple[int, bytes]:
    """Peak resident set of a command, and the SHA-256 of what it printed."""
    script = (
        "import os, resource, sys; from ipdc_edge.__main__ import main; code = main(sys.argv[1:]); sys.stdout.flush(); "
        "os.write(2, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).encode()); sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": lab.home(1)}
    child = subprocess.Popen(
        [PYTHON, "-c", script, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None and child.stderr is not None
    digest = hashlib.sha256()
    while block := child.stdout.read(MB):
        digest.update(block)
    said = child.stderr.read()
    assert child.wait() == 0, said
    return 1024 * int(said), digest.digest()


def test_add_and_cat_take_the_same_memory_for_any_size(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    small, large = tmp_path / "small", tmp_path / "large"
    for path, size in ((small, 8 * MB), (large, 1500 * MB)):
        with open(path, "wb") as file:  # sparse, with a few bytes that make its blocks differ
            for at in range(0, size, 100 * MB):
                file.seek(at)
                file.write(b"%d" % at)
            file.truncate(size)
    peaks = {}
    for path in (small, large):
        cid = lab.run(1, "add", str(path)).stdout.strip()
        peaks[path] = [peak_of(lab, "add", str(path))[0], 0, 0]
        peaks[path][1], digest = peak_of(lab, "cat", cid)
        peaks[path][2] = daemon_memory(lab, 1)
        with open(path, "rb") as file:
            assert digest == hashlib.file_digest(file, "sha256").digest()
    for before, after in zip(peaks[small], peaks[large]):
        assert after < before + 8 * MB, peaks


def test_content_of_another_node_is_read_through_its_gateway(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * MB + 17))
    cid = lab.run(2, "add", str(path)).stdout.strip()
    lab.run(3, "nodes")
    done = subprocess.run(
        [PYTHON, "-m", "ipdc_edge", "cat", cid],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": lab.home(3)},
    )
    assert done.stdout == path.read_bytes(), done.stderr


def test_a_changed_file_is_refused_by_its_hash_and_named(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "file"
    path.write_bytes(os.urandom(6 * MB))
    cid = lab.run(1, "add", str(path)).stdout.strip()
    with open(path, "r+b") as file:
        file.seek(2 * MB)
        file.write(b"after!!")
    done = subprocess.run(
        [PYTHON, "-m", "ipdc_edge", "cat", cid],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": lab.home(1)},
    )
    assert done.returncode == 1
    assert str(path).encode() in done.stderr and b"Traceback" not in done.stderr


def test_add_prints_what_ipfs_prints(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The specification's own examples: the empty file, and "hello\\n" under CIDv1 with raw leaves."""
    empty, hello = tmp_path / "empty", tmp_path / "hello"
    empty.write_bytes(b"")
    hello.write_bytes(b"hello\n")
    assert lab.run(1, "add", str(empty)).stdout.strip() == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    expected = "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"
    assert lab.run(1, "add", str(hello)).stdout.strip() == expected


def test_a_tree_of_another_node_is_fetched_and_pinned_through_its_gateway(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "big").write_bytes(os.urandom(5 * MB + 17))
    (tree / "small").write_bytes(b"small")
    (tree / "link").symlink_to("sub/big")
    cid = lab.run(2, "add", str(tree)).stdout.strip()
    lab.run(3, "nodes")
    assert [line.split()[-1] for line in lab.run(3, "ls", cid).stdout.splitlines()] == ["sub/big", "small", "sub"]
    lab.run(3, "get", cid, "-o", str(tmp_path / "got"))
    assert (tmp_path / "got" / "link").readlink() == (tree / "link").readlink()
    pinned = lab.json(3, "pin", cid)
    assert pinned["cid"] == cid and pinned["fetched"] == 11 and pinned["bytes"] > 5 * MB
    (tree / "sub" / "big").unlink()  # from now on only node 3 has it
    lab.run(3, "get", cid, "-o", str(tmp_path / "kept"))
    for found in (tmp_path / "got", tmp_path / "kept"):
        assert len((found / "sub" / "big").read_bytes()) == 5 * MB + 17 and (found / "small").read_bytes() == b"small"
    assert cid in lab.run(3, "pin", "--list").stdout
    lab.run(3, "store", "verify")
    lab.run(3, "unpin", cid)
    assert lab.json(3, "gc")["bytes"] > 5 * MB
    lab.run(2, "unpin", cid)
    lab.run(2, "gc")
