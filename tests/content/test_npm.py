"""Our CIDs against independent implementations from npm, and Kubo's vectors of a gibibyte.

`ipfs-car pack` is used as it is: its defaults (1 MiB chunks, raw leaves, balanced, 1024 links) are the
profile's. `ipfs-unixfs-importer`, Helia's, takes chunk size and width as settings, so that it checks the shape
of many small trees too. Both are installed once, at fixed versions, into a cache directory outside the
repository.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK, directory_block
from ipdc_edge.drivers.importer import Importer, import_file
from tests.content.npm import installed

pytestmark = pytest.mark.npm

PACKAGES = ["ipfs-car@3.1.0", "ipfs-unixfs-importer@17.1.1"]

IMPORT_MANY = """
import { importer } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'
import { createHash } from 'node:crypto'
const cases = JSON.parse(await new Promise(resolve => {
  let text = ''
  process.stdin.on('data', data => { text += data }).on('end', () => resolve(text))
}))
const forget = { put: async cid => cid }
const roots = []
for (const { content, chunk, links } of cases) {
  const options = {
    rawLeaves: true, cidVersion: 1, reduceSingleLeafToSelf: true,
    chunker: fixedSize({ chunkSize: chunk }), layout: balanced({ maxChildrenPerNode: links })
  }
  let root
  const source = [{ content: Buffer.from(content, 'hex') }]
  for await (const entry of importer(source, forget, options)) root = entry.cid
  roots.push(root.toString())
}
console.log(JSON.stringify(roots))
"""

# Kubo's DeterministicRandomReader: ChaCha20 under sha256(seed), with a zero nonce
STREAM = """
const crypto = require('node:crypto')
const key = crypto.createHash('sha256').update(process.argv[1]).digest()
const cipher = crypto.createCipheriv('chacha20', key, Buffer.alloc(16))
const zeros = Buffer.alloc(1 << 20)
let left = Number(process.argv[2])
const next = () => {
  while (left > 0) {
    const piece = cipher.update(zeros.subarray(0, Math.min(left, zeros.length)))
    left -= piece.length
    if (!process.stdout.write(piece)) return process.stdout.once('drain', next)
  }
  process.stdout.end()
}
next()
"""


@pytest.fixture(scope="session")
def modules():
    """A directory with PACKAGES in its node_modules."""
    return installed("npm", tuple(PACKAGES))


def pack(modules, *paths, wrap=False):
    """The root that ipfs-car gives these files."""
    program = os.path.join(modules, "node_modules", "ipfs-car", "bin.js")
    command = ["node", program, "pack", *paths, "--output", os.devnull]
    command[-1] = str(paths[0]) + ".car"
    done = subprocess.run(
        [*command, *([] if wrap else ["--no-wrap"])], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 37 * CHUNK + 12345])
def test_ipfs_car_gives_the_same_root(modules, tmp_path, size):
    data = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(data)
    assert pack(modules, tmp_path / "file") == import_file(io.BytesIO(data))[0]


def test_ipfs_car_gives_the_same_directory(modules, tmp_path):
    entries = []
    for name in ("b.txt", "a.txt", "B", "\u00e4", "\U0001f600"):
        content = name.encode() * 3
        (tmp_path / name).write_bytes(content)
        entries.append((name, raw_cid(content), len(content)))
    assert (
        pack(modules, *(tmp_path / name for name, _, _ in entries), wrap=True) == directory_block(entries)[0]
    )


def test_helias_importer_builds_the_same_trees(modules):
    chosen = random.Random(499)
    cases = []
    for _ in range(300):
        chunk, links = chosen.randint(1, 7), chosen.randint(2, 6)
        leaves = chosen.choice(
            [0, 1, links, links + 1, links**2, links**2 + 1, chosen.randint(1, links**3 + 5)]
        )
        cases.append((chosen.randbytes(max(0, leaves * chunk - chosen.randrange(chunk))), chunk, links))
    ours = []
    for content, chunk, links in cases:
        importer = Importer(io.BytesIO(content), chunk, links)
        list(importer.blocks())
        ours.append(importer.root)
    question = [{"content": content.hex(), "chunk": chunk, "links": links} for content, chunk, links in cases]
    command = ["node", "--input-type=module", "-e", IMPORT_MANY]
    done = subprocess.run(command, cwd=modules, input=json.dumps(question), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ours


@pytest.mark.parametrize(
    ("size", "root"),
    [
        (1024 * CHUNK, "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"),
        (1024 * CHUNK + 1, "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"),
        (1025 * CHUNK, "bafybeihmzokxxjqwxjcryerhp5ezpcog2wcawfryb2xm64xiakgm4a5jue"),
    ],
)
def test_kubos_files_at_and_over_the_links_of_a_node(size, root):
    """IPIP-0499's test fixtures and kubo's test/cli/cid_profiles_test.go, through a pipe."""
    command = ["node", "--input-type=commonjs", "-e", STREAM, "v1-2025-seed", str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        importer = Importer(process.stdout)
        blocks = list(importer.blocks())
    assert (importer.root, importer.size, len(blocks)) == (root, size, 1 if size == 1024 * CHUNK else 3)
