"""The files that mosquitto reads: configuration, access list, password, revocations.

Owns their text and their places below home.run; each is written whole or not at all, 0600. Never starts or signals a
process (`broker` does). Options: mosquitto.conf(5) of mosquitto 2.0.

Two listeners, and nobody is anonymous on either. The domain's speaks TLS: who connects is the id in its certificate,
as user name and as client id, whatever it asks for (else a member could take another's client id, which throws the
other out). The local one, on loopback, is the daemon's: by a password, and with any client id, so that the daemon can
throw out whoever was expelled.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Iterable

from ipdc_edge.codec.messages import topic
from ipdc_edge.codec.serving import ANSWERS, ROOT
from ipdc_edge.core.values import MemberList
from ipdc_edge.drivers.architectures import channels
from ipdc_edge.drivers.broker_log import FILTER
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home
from ipdc_edge.settings import LOOPBACK, Settings

USER = "daemon"  # no node's id, so no certificate gives this name
CLIENT = "client"  # programs of this node that ask served models; no node's id either
# A request to a served model is at most 128 kB (codec/serving.py), other messages 16 kB of JSON. There is room for
# topic and properties, and for what is too long by little: that is answered, not cut off.
PACKET_BYTES = 192 << 10
MEMORY_BYTES = 32 << 20  # of mosquitto's heap in all, without OpenSSL's; clients beyond it are refused
QUEUED_BYTES = 1 << 20  # waiting for one client
QUEUED_MESSAGES = 1000
INFLIGHT = 20  # messages under way to or from one client
# Seconds; who is silent for one and a half times that is dropped. Above the 60 s that mosquitto gives to a connection
# which has not said its own yet: 2.0.21 keeps clients in a ring of 1.5 * max_keepalive + 1 seconds, in which one whose
# keepalive is the greatest stands on the second that is just over. It drops such a client when the first thing that it
# hears in a second is from it; with 60 here, that was every hundredth new connection.
KEEPALIVE = 120
# A domain of 256, and as many strangers: one that connects and says nothing is dropped after 90 s, no option shortens
# that, and takes 45 kB (mosquitto 2.0.11 and 2.0.21): 23 MB at worst. Members connect within milliseconds meanwhile.
# No option limits them by address either; that is for a firewall. Systems allow a process 1024 descriptors.
CONNECTIONS = 512
LOCAL_CONNECTIONS = 64  # the daemon's one, what throws out the expelled, and this node's programs
RETAINED = ("node", "lost")  # channels whose last message a portal retains
ITERATIONS = 101  # of PBKDF2, mosquitto_passwd's own number; the password is random, so more would add nothing
SALT_BYTES = 12
LOG_AT_START = "log_dest stderr\nconnection_messages false"  # what keeps it from starting must be seen
LOG_TO_DAEMON = "log_dest topic\nconnection_messages true"  # with addresses; broker_log says why not always


class BrokerFilesNotWritten(IpdcError):
    """Cannot write {path}, which the broker needs: {reason}."""


def configuration(home: Home, settings: Settings, identity: Identity) -> str:
    """The text of mosquitto's configuration. Nothing is kept on disk: the broker is a mailbox, not a store."""
    return f"""\
# Written by ipdc-edge at every start; changes here are lost. Settings are in ipdc.conf.
{"user root" if os.geteuid() == 0 else "# runs as who started it"}
per_listener_settings false
allow_anonymous false
password_file {passwords_path(home)}
acl_file {access_path(home)}
pid_file {pid_path(home)}
persistence false
set_tcp_nodelay true
max_packet_size {PACKET_BYTES}
max_queued_messages {QUEUED_MESSAGES}
max_queued_bytes {QUEUED_BYTES}
max_inflight_messages {INFLIGHT}
max_keepalive {KEEPALIVE}
memory_limit {MEMORY_BYTES}
sys_interval 0
{LOG_AT_START}
log_type error
log_type warning
log_type notice

listener {settings.mqtt_port} {settings.bind(identity.alone)}
max_connections {CONNECTIONS}
tls_version tlsv1.2
cafile {identity.authority_certificate}
certfile {identity.certificate}
keyfile {identity.key}
crlfile {revocations_path(home)}
require_certificate true
use_identity_as_username true
use_username_as_clientid true

listener {settings.local_port} {LOOPBACK}
max_connections {LOCAL_CONNECTIONS}
"""


def access_list(members: MemberList, own: str, names: Iterable[str]) -> str:
    """mosquitto's access list at the broker of the node `own`: one block for each user who may do anything.

    A member may speak on the channels `names` and no other, since what is retained stays: so it is bounded. At a
    portal it may read who is there. Programs of this node, by the password of `client` or with the node's certificate,
    may ask served models and read the answers, and nothing else: the daemon speaks for the node. The authority
    itself may tell of a newer list and nothing else: a node that has it from a backup is on no list yet that is known
    here. The daemon may have forgotten what is retained of others, once they are members no more.
    Explicit blocks and no `pattern`, which would still let in who has no block any more.
    """
    names = tuple(names)
    top = f"ipdc/1/{members.domain}"
    lines = [
        f"user {USER}",
        f"topic write {top}/{own}/#",
        *(f"topic write {top}/+/{channel}" for channel in RETAINED),
        f"topic read {top}/#",
        f"topic read {FILTER}",
        f"topic read {ROOT}#",
        f"topic write {ANSWERS}#",
        f"topic write {probe_topic(members.version)}",
    ]
    for user in (CLIENT, own):
        lines += ["", f"user {user}", *(f"topic write {ROOT}+/{word}" for word in ("request", "health")),
                  f"topic read {ANSWERS}#"]
    reads = [f"topic read {top}/+/node", f"topic read {top}/+/lost"] if own in members.portals else []
    for member in members.members:
        if member.id != own:
            lines += ["", f"user {member.id}", *(f"topic write {top}/{member.id}/{name}" for name in names), *reads]
    lines += ["", f"user {members.authority}", f"topic write {announcement_topic(members)}"]
    return "\n".join(lines) + "\n"


def announcement_topic(members: MemberList) -> str:
    """Where the domain's authority itself, whichever node has it, tells of a newer list."""
    return topic(members.domain, members.authority, "members")


def probe_topic(version: int) -> str:
    """The daemon may write here once the broker has read the access list of this version; nobody reads it."""
    return f"ipdc/access/{version}"


def credentials(home: Home) -> tuple[str, str]:
    """The daemon's (user, password) at its own broker. Raises BrokerFilesNotWritten."""
    return USER, _password(os.path.join(home.run, "mosquitto.secret"), 0o600)


def client_credentials(home: Home) -> tuple[str, str]:
    """(user, password) of this node's programs at its own broker; members of the daemon's group may read it. Raises
    BrokerFilesNotWritten."""
    return CLIENT, _password(os.path.join(home.run, "mqtt-client.secret"), 0o640)


def _password(path: str, mode: int) -> str:
    """What stands there; it is made, once, by whoever asks first."""
    fresh = _fresh(path)
    try:
        if not os.path.exists(path):
            _write_new(fresh, os.urandom(24).hex())
            os.chmod(fresh, mode)
            try:
                os.link(fresh, path)  # unlike a rename, it leaves the one that somebody made meanwhile
            except FileExistsError:
                pass
            finally:
                os.unlink(fresh)
        with open(path, encoding="ascii") as file:
            return file.read(200).strip()
    except (OSError, ValueError) as error:
        raise BrokerFilesNotWritten(path=path, reason=getattr(error, "strerror", None) or error) from error


def password_line(user: str, password: str) -> str:
    """A line of mosquitto's password file, as mosquitto_passwd writes it: `$7$`, PBKDF2 with SHA-512."""
    salt = os.urandom(SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"{user}:$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


def write_all(home: Home, settings: Settings, identity: Identity) -> str:
    """Writes everything that a broker reads at its start; the configuration's path. Raises BrokerFilesNotWritten."""
    write_access(home, identity)
    _write(passwords_path(home), password_line(*credentials(home)) + password_line(*client_credentials(home)))
    _write(home.broker_conf, configuration(home, settings, identity))
    return home.broker_conf


def write_access(home: Home, identity: Identity) -> None:
    """Writes what follows from the member list: the access list and the revocations. Raises BrokerFilesNotWritten."""
    _write(access_path(home), access_list(identity.members, identity.id, channels()))
    _write(revocations_path(home), identity.members.crl)


def redirect_log(home: Home) -> None:
    """Has the present configuration say that the log goes to the daemon. Raises BrokerFilesNotWritten."""
    try:
        with open(home.broker_conf, encoding="ascii") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        raise BrokerFilesNotWritten(path=home.broker_conf, reason=error) from error
    _write(home.broker_conf, text.replace(LOG_AT_START, LOG_TO_DAEMON))


def access_path(home: Home) -> str:
    """Who may write and read what."""
    return os.path.join(home.run, "mosquitto.acl")


def passwords_path(home: Home) -> str:
    """The daemon's password, hashed."""
    return os.path.join(home.run, "mosquitto.passwd")


def revocations_path(home: Home) -> str:
    """Whose certificates count no more."""
    return os.path.join(home.run, "mosquitto.crl")


def pid_path(home: Home) -> str:
    """The process id of the present broker."""
    return os.path.join(home.run, "mosquitto.pid")


def _fresh(path: str) -> str:
    """A name beside it that nobody else uses: the daemon and the thread that starts its broker write at any time."""
    return f"{path}.{os.getpid()}-{threading.get_ident()}.new"


def _write(path: str, text: str) -> None:
    fresh = _fresh(path)
    try:
        _write_new(fresh, text)
        os.replace(fresh, path)
    except OSError as error:
        raise BrokerFilesNotWritten(path=path, reason=error.strerror or str(error)) from error


def _write_new(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
