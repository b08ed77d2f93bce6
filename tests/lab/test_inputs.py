"""What a job reads, on three real nodes: many files, patterns, directories, standard input, compressed files, content
by its CID, and the formats of records. Against plain Python, byte for byte."""

from __future__ import annotations

import base64
import bz2
import collections
import csv
import gzip
import hashlib
import importlib.util
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lab.conftest import Lab, difference, in_order
from tests.lab.test_exact import as_json, write
from tests.lab.test_jobs import program

WORDS = b"alpha beta gamma delta epsilon zeta eta theta iota kappa".split()
ZSTD = any(importlib.util.find_spec(name) for name in ("zstandard", "compression.zstd" if sys.version_info >= (3, 14)
                                                       else "zstandard"))


def text(seed: int, lines: int) -> bytes:
    chance = random.Random(seed)
    return b"".join(b" ".join(chance.choices(WORDS, k=chance.randrange(8))) + b"\n" for _ in range(lines))


def sources(files: Mapping[str, bytes]) -> bytes:
    """What sources.py makes of files by their names, sorted."""
    found: dict[bytes, dict[str, int]] = {}
    for name, content in files.items():
        for word in content.split():
            counts = found.setdefault(word, {})
            counts[name] = counts.get(name, 0) + 1
    return in_order(b"".join(b"%s\t%s\n" % (word, as_json([[n, counts[n]] for n in sorted(counts)]))
                             for word, counts in found.items()))


def result(lab: Lab, node: int, *words: str, **options: object) -> bytes:
    """The lines of a job's result, sorted."""
    return in_order(b"".join(lab.parts(node, lab.submit(node, *words, **options))))


def lay(directory: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_many_files_a_pattern_a_directory_and_one_by_name(lab: Lab, tmp_path: Path) -> None:
    """400 files in directories; each of the ways alone, and then together: what is named twice counts twice."""
    files = {f"logs/{n % 7}/{n}.txt": text(n, n % 9) for n in range(400)}
    lay(tmp_path, {**files, "logs/.hidden": b"hidden", "logs/3/not.log": b"log"})
    everything = {**files, "logs/3/not.log": b"log"}
    found = result(lab, 1, program("sources.py"), "--input", "logs", "-k", "3", cwd=tmp_path)
    assert not difference(found, sources(everything))
    found = result(lab, 2, program("sources.py"), "--input", str(tmp_path / "logs" / "**" / "*.txt"), "-k", "2")
    assert not difference(found, sources(files))
    found = result(lab, 3, program("sources.py"), "--input", "logs/[12]/*.txt", "logs/3/not.log", cwd=tmp_path)
    few = {os.path.basename(name): content for name, content in files.items() if name[5] in "12"}
    assert not difference(found, sources({**few, "not.log": b"log"}))
    names = sorted(str(tmp_path / name) for name in files)
    found = result(lab, 1, program("words.py"), "--input", *names, str(tmp_path / "logs"), names[8])
    words = b" ".join([*files.values(), *everything.values(), (tmp_path / names[8]).read_bytes()]).split()
    assert not difference(found, in_order(b"".join(b"%s\t%d\n" % (word, words.count(word)) for word in set(words))))


def test_a_pattern_that_matches_nothing_is_told(lab: Lab, tmp_path: Path) -> None:
    done = lab.run(1, "submit", program("words.py"), "--input", str(tmp_path / "*.none"), check=False)
    assert done.returncode == 1 and f"{tmp_path}/*.none matches no file" in done.stderr


def test_standard_input_from_a_pipe(lab: Lab, tmp_path: Path) -> None:
    """Bigger than a pipe and than a split, beside a file."""
    content, more = text(1, 120_000), text(2, 50)
    assert len(content) > 2 << 20
    lay(tmp_path, {"piped": content, "more": more})
    with subprocess.Popen(["cat", str(tmp_path / "piped")], stdout=subprocess.PIPE) as cat:
        found = result(lab, 2, program("sources.py"), "--input", "-", str(tmp_path / "more"), "-k", "2",
                       stdin=cat.stdout)
    assert not difference(found, sources({"standard-input": content, "more": more}))


def _pack(content: bytes, kind: str) -> bytes:
    """Of several members or streams, as `cat` of compressed files gives them."""
    cut = len(content) // 3
    pieces = [content[:cut], b"", content[cut:]]
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind]
    return b"".join(pack(piece) for piece in pieces)


def test_compressed_files_beside_plain_ones_are_as_their_text(lab: Lab, tmp_path: Path) -> None:
    """In one job and each alone; a member ends in the middle of a line; some are longer than a split."""
    content = {f"{kind}{size}": text(len(kind) * size, size) for kind in ("gz", "bz2", "xz") for size in (0, 30_000)}
    plain = {"plain": text(9, 60_000)}
    lay(tmp_path / "plain", {**content, **plain})
    lay(tmp_path / "packed", {**{f"{name}.{_kind(name)}": _pack(data, _kind(name)) for name, data in content.items()},
                              **plain})
    expected = result(lab, 1, program("words.py"), "--input", str(tmp_path / "plain"), "-k", "2")
    words = b" ".join([*content.values(), *plain.values()]).split()
    assert not difference(expected, in_order(b"".join(b"%s\t%d\n" % (w, words.count(w)) for w in set(words))))
    done = lab.run(1, "submit", program("words.py"), "--input", str(tmp_path / "packed"), "-k", "2", "--id-only",
                   "--wait")
    assert "6 inputs are compressed" in done.stderr and "one task reads all of each" in done.stderr
    assert not difference(in_order(b"".join(lab.parts(1, done.stdout.strip()))), expected)
    for name in content:
        if content[name]:
            path = str(tmp_path / "packed" / f"{name}.{_kind(name)}")
            found = result(lab, 3, program("sources.py"), "--input", path)
            assert not difference(found, sources({os.path.basename(path): content[name]}))


def _kind(name: str) -> str:
    return next(kind for kind in ("gz", "bz2", "xz") if name.startswith(kind))


def test_a_damaged_and_a_truncated_compressed_file_are_told_by_name(lab: Lab, tmp_path: Path) -> None:
    packed = bytearray(zlib.compress(text(3, 20_000), wbits=31))
    lay(tmp_path, {"cut.gz": bytes(packed[: len(packed) // 2])})
    packed[len(packed) // 2] ^= 0x55
    lay(tmp_path, {"hurt.gz": bytes(packed), "not.gz": b"plain text"})
    for name, said in (("cut.gz", "is cut off"), ("hurt.gz", "is damaged"), ("not.gz", "does not begin as such")):
        done = lab.run(2, "submit", program("words.py"), "--input", str(tmp_path / name), check=False)
        assert done.returncode == 1 and name in done.stderr and said in done.stderr, done.stderr


def test_zst_where_python_has_it_and_else_a_clear_error(lab: Lab, tmp_path: Path) -> None:
    content = b"one two two\n"
    # RFC 8878 by hand: magic, frame header (single segment, one byte of size), one last raw block
    frame = b"\x28\xb5\x2f\xfd\x20" + bytes([len(content)]) + (len(content) << 3 | 1).to_bytes(3, "little") + content
    lay(tmp_path, {"words.zst": frame})
    done = lab.run(1, "submit", program("words.py"), "--input", str(tmp_path / "words.zst"), "--id-only", "--wait",
                   check=False)
    if ZSTD:
        assert done.returncode == 0, done.stderr
        assert in_order(b"".join(lab.parts(1, done.stdout.strip()))) == in_order(b"one\t1\ntwo\t2\n")
    else:
        assert done.returncode == 1 and "words.zst is compressed by zstd" in done.stderr
        assert "python3-zstandard" in done.stderr


def test_content_that_only_another_node_holds(lab: Lab, tmp_path: Path) -> None:
    """Added on node 3 and on node 2, mapped from node 1, which never had it."""
    first, second = text(4, 200_000), text(5, 10)
    lay(tmp_path, {"first": first, "second": second})
    cids = [lab.run(node, "add", "--copy", str(tmp_path / name)).stdout.strip()
            for node, name in ((3, "first"), (2, "second"))]
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    job = lab.submit(1, program("sources.py"), "--input", cids[0], f"/ipfs/{cids[1]}", "-k", "3")
    assert not difference(in_order(b"".join(lab.parts(1, job))), sources({cids[0]: first, cids[1]: second}))
    view = lab.json(1, "status", job)
    assert view["input_bytes"] == len(first) + len(second) and view["maps"]["total"] > 3


def test_content_that_nobody_holds_is_told(lab: Lab) -> None:
    cid = _cid_of_lonely()
    done = lab.run(1, "submit", program("words.py"), "--input", cid, check=False)
    assert done.returncode == 1 and cid in done.stderr and "2 others" in done.stderr and "ipdc-edge add" in done.stderr
    wrong = lab.run(1, "submit", program("words.py"), "--input", cid[:-1], check=False)
    assert wrong.returncode == 1 and "No such file" in wrong.stderr and "no CID either" in wrong.stderr


def test_a_directory_of_content_is_all_files_below_it(lab: Lab, tmp_path: Path) -> None:
    """Added on one node, mapped for another: files at any depth, an empty one; not what is hidden, and no symlink."""
    texts = {"a.txt": b"one two\n" * 300, "deep/er/b.txt": b"two three\n" * 200, "deep/empty": b"",
             "ü.txt": b"four\n", ".hidden": b"never\n"}
    top = tmp_path / "top"
    for name, text in texts.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        with open(os.fsencode(str(top)) + b"/" + os.fsencode(name), "wb") as file:
            file.write(text)
    os.symlink("a.txt", top / "link")
    (top / "nothing").mkdir()
    cid = lab.run(2, "add", str(top)).stdout.strip()
    job = lab.submit(1, program("sources.py"), "--input", cid, "-k", "2")
    assert not difference(in_order(b"".join(lab.parts(1, job))), sources(
        {f"{cid}/{name}": text for name, text in texts.items() if name != ".hidden"}))
    empty = lab.run(2, "add", str(top / "nothing")).stdout.strip()
    done = lab.run(1, "submit", program("sources.py"), "--input", empty, check=False)
    assert done.returncode == 1 and "without a file in it" in done.stderr


def _cid_of_lonely() -> str:
    """CIDv1, raw, SHA-256 of b"lonely\\n", in base32: see the multiformats specifications."""
    digest = b"\x01\x55\x12\x20" + hashlib.sha256(b"lonely\n").digest()
    return "b" + base64.b32encode(digest).decode().rstrip("=").lower()


def test_json_lines(lab: Lab, tmp_path: Path) -> None:
    """One text a line; lines of white space are none, a carriage return is part of the line's end."""
    values = [None, True, 1, -0.5, "\u00e9\U0001f600\t\\", [], {}, {"a": [1, {"b": None}]}, [1, "2"]] * 3000
    lines = [json.dumps(value, ensure_ascii=number % 2 == 0).encode() + b"\r" * (number % 3 == 0)
             for number, value in enumerate(values)]
    lines[100:100] = [b"", b"   \t", b"\r"]
    expected, at = b"", 0
    for line in lines:
        if line.strip():
            value = json.loads(line)
            told = value.encode() if isinstance(value, str) else as_json(value)
            expected += b"%d\t%s\n" % (at, told)
        at += len(line) + 1
    path = write(tmp_path / "records", lines)
    found = result(lab, 1, program("records.py"), "--input", path, "--input-format", "json", "-k", "3")
    assert not difference(found, in_order(expected))
    bad = write(tmp_path / "bad", [b"{}", b'{"a":}'])
    done = lab.run(1, "submit", program("records.py"), "--input", bad, "--input-format", "json", check=False)
    assert done.returncode == 1 and "bad, byte offset 3" in done.stderr and "JSON" in done.stderr


def test_csv_rows(lab: Lab, tmp_path: Path) -> None:
    """Quotes, doubled quotes, commas within, empty fields and rows, CRLF and LF, Unicode, bytes that are no UTF-8."""
    rows = [b"a,b,c", b'"a,b","c ""d""",', b",,", b"", b'"",x', "\u00e9,\u4e2d".encode(), b"\xff,1", b"' ,\t",
            b'a b"c,d']
    lines = [row + b"\r" * (number % 2) for number, row in enumerate(rows * 4000)]
    expected, at = b"", 0
    for line in lines:
        (row,) = list(csv.reader([line.rstrip(b"\r").decode("utf-8", "surrogateescape")])) or [[]]
        told = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")
        expected += b"%d\t%s\n" % (at, told)
        at += len(line) + 1
    found = result(lab, 2, program("records.py"), "--input", write(tmp_path / "rows.csv", lines), "--input-format",
                   "csv", "-k", "2")
    assert not difference(found, in_order(expected))
    bad = write(tmp_path / "bad.csv", [b"a,b", b'1,"two', b'lines"'])
    done = lab.run(2, "submit", program("records.py"), "--input", bad, "--input-format", "csv", check=False)
    assert done.returncode == 1 and "bad.csv, byte offset 4" in done.stderr and "whole-file" in done.stderr


def test_whole_files(lab: Lab, tmp_path: Path) -> None:
    """Each file one record, an empty one too, a compressed one as its text; bytes as they are."""
    chance = random.Random(7)
    files = {"in/empty": b"", "in/nul": b"\x00\n\xff\r\n", "in/some": chance.randbytes(700_000),
             **{f"in/{n}": chance.randbytes(n) for n in range(1, 300)}}
    lay(tmp_path, {**files, "in/text.gz": gzip.compress(b"text\n"), "in/more.xz": lzma.compress(b"")})
    found = result(lab, 3, program("digest.py"), "--input", "in", "--input-format", "whole-file", "-k", "3",
                   cwd=tmp_path)
    everything = {**files, "in/text.gz": b"text\n", "in/more.xz": b""}
    expected = b"".join(b"%s\t[%d,\"%s\"]\n" % (name.encode(), len(data), hashlib.sha256(data).hexdigest().encode())
                        for name, data in everything.items())
    assert not difference(found, in_order(expected))


def test_files_with_odd_names(lab: Lab, tmp_path: Path) -> None:
    """Spaces, newlines, quotes, signs of a pattern, bytes that are no UTF-8: each is read, and known by its name."""
    names = [b"a b", b"new\nline", b"tab\t", b"q\"uo'te", b"[x]*?", b"-dash", "\u00e9\u4e2d".encode(), b"\xff\xfe",
             b"caf\xe9.txt", b"back\\slash", b"~", b"#", b"$(ls)", b"%s", b"\x1b[31m", b"x" * 255, b"a:b"]
    directory = os.path.join(os.fsencode(tmp_path), b"odd")
    os.mkdir(directory)
    for number, name in enumerate(names):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(b"word\n" * (number + 1))
    every = [os.path.join("odd", os.fsdecode(name)) for name in names]
    found = result(lab, 1, program("sources.py"), "--input", "odd", "-k", "2", cwd=tmp_path)
    assert json.loads(found.strip().partition(b"\t")[2].decode("utf-8", "surrogateescape")) == sorted(
        [name, number + 1] for number, name in enumerate(every))
    given = [f"./{name}" for name in every]
    alone = result(lab, 2, program("sources.py"), "--input", *given, cwd=tmp_path)
    assert json.loads(alone.strip().partition(b"\t")[2].decode("utf-8", "surrogateescape")) == sorted(
        [os.fsdecode(name), number + 1] for number, name in enumerate(names))
    for text_of in (lab.run(1, "status").stdout, lab.run(1, "jobs").stdout):
        assert "\x1b" not in text_of


def test_more_names_than_a_description_can_hold_are_told_at_once(lab: Lab) -> None:
    """Not queued for ever, because no node takes a job whose description is longer than a runner is given."""
    from ipdc_edge.errors import IpdcError

    path = program("words.py")
    cid, size = lab.run(1, "add", path).stdout.strip(), os.path.getsize(path)
    spec = {"app": "mapreduce", "workers": 1, "arguments": {}, "code": {"words.py": {"cid": cid, "size": size}},
            "inputs": [{"name": f"{number:0250}", "cid": cid, "size": size} for number in range(5600)],
            "options": {"steps": [{"map": "words.py", "reduce": "words.py"}]}}
    try:
        job = lab.ask(1, "submit", spec=spec, submission="0123456789abcdef")["id"]
    except IpdcError as error:
        assert "description takes" in str(error) and "inputs" in str(error)
    else:
        lab.run(1, "cancel", job)
        pytest.fail("it was queued")


@pytest.mark.parametrize("missing", ["there/is/none", "directory"])
def test_inputs_that_are_none_are_told(lab: Lab, tmp_path: Path, missing: str) -> None:
    (tmp_path / "directory").mkdir()
    done = lab.run(1, "submit", program("words.py"), "--input", str(tmp_path / missing), check=False)
    assert done.returncode == 1 and missing in done.stderr and "Traceback" not in done.stderr


def test_compressed_content_by_its_cid(lab: Lab, tmp_path: Path) -> None:
    """A CID has no extension that would tell: the content does, wherever it lies."""
    text = b"".join(b"%d some words\n" % number for number in range(3000))
    packed = tmp_path / "words.gz"
    packed.write_bytes(gzip.compress(text[:9000]) + gzip.compress(text[9000:]))
    cid = lab.run(3, "add", str(packed)).stdout.strip()
    done = lab.run(1, "submit", program("words.py"), "--input", cid)
    assert f"{cid} is compressed: one task reads all of it" in done.stderr
    job = lab.json(1, "jobs")[-1]["id"]
    expected = collections.Counter(text.decode().split())
    wanted = sorted(b"%s\t%d" % (word.encode(), count) for word, count in expected.items())
    assert [line.encode() for line in lab.result(1, job)] == wanted
