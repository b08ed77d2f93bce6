"""Our ids against libp2p's packages for JavaScript: keys made by `cryptography`, ids made by @libp2p/peer-id.

js-libp2p 5's own encoding of ECDSA keys is not the specification's (nor go-libp2p's): it writes a structure of its own
where the specification wants SubjectPublicKeyInfo, and cannot read the specification's test vector. So its parts are
used, and the key's encoding is WebCrypto's. The packages are installed once, at fixed versions, into a cache
directory outside the repository.
"""

from __future__ import annotations

import json
import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipdc_edge.drivers import certificates
from tests.codec.test_node_id import SMALL, SPEC_ID, SPEC_PROTOBUF
from tests.content.npm import installed

pytestmark = pytest.mark.npm

PACKAGES = ["@libp2p/crypto@5.1.23", "@libp2p/peer-id@6.0.15"]

# Every step is another's: the point becomes SubjectPublicKeyInfo by node's WebCrypto, the protobuf is made by libp2p's
# schema, the hash and its multihash by multiformats, the id by @libp2p/peer-id.
IDS = """
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { sha256 } from 'multiformats/hashes/sha2'
import { peerIdFromMultihash, peerIdFromString } from '@libp2p/peer-id'
const schema = join(process.cwd(), 'node_modules/@libp2p/crypto/dist/src/keys/keys.js')
const { KeyType, PublicKey } = await import(schema)
const ids = []
for (const point of JSON.parse(readFileSync(0))) {
  const curve = { name: 'ECDSA', namedCurve: 'P-256' }
  const key = await crypto.subtle.importKey('raw', Buffer.from(point, 'hex'), curve, true, ['verify'])
  const Data = new Uint8Array(await crypto.subtle.exportKey('spki', key))
  const id = peerIdFromMultihash(await sha256.digest(PublicKey.encode({ Type: KeyType.ECDSA, Data }))).toString()
  ids.push(peerIdFromString(id).toString())
}
console.log(JSON.stringify(ids))
"""


@pytest.fixture(scope="module")
def modules() -> str:
    """A directory with PACKAGES in its node_modules."""
    return installed("npm-peer-ids", tuple(PACKAGES))


def ids(modules: str, points: list[str]) -> list[str]:
    """The ids that libp2p gives the keys of these points (uncompressed, hexadecimal)."""
    command = ["node", "--input-type=module", "-e", IDS]
    done = subprocess.run(command, cwd=modules, input=json.dumps(points), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_libp2p_gives_our_keys_the_same_ids(modules: str) -> None:
    keys = [certificates.new_key().public_key() for _ in range(50)]
    points = [key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint).hex() for key in keys]
    assert ids(modules, points) == [certificates.id_of(key) for key in keys]


def test_libp2p_gives_the_known_keys_the_ids_of_the_vectors(modules: str) -> None:
    """Those of tests/codec/test_node_id.py, which go-libp2p made."""
    assert ids(modules, list(SMALL.values())) == list(SMALL)
    assert ids(modules, [SPEC_PROTOBUF[-65:].hex()]) == [SPEC_ID]
