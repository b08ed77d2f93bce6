"""The domain at this node: who is let in, and how a new member list becomes true here.

Owns the way of a list from a peer's gateway to the broker's access list: fetched, verified by a child (so that
`cryptography` is never in the daemon), kept, told to the core, and then, when the core wants it so, enforced at the
broker, the gateway and the links. Decides nothing about members: the authority did.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace

from ..codec import member_list
from ..codec.cid import raw_cid
from ..core import effects as fx
from ..core import events as e
from ..core.admission import Admission
from ..core.membership import Membership
from ..core.messages import Members
from ..core.values import HeldList, MemberList
from ..drivers import broker, identity
from ..drivers.blocks import BlockStore
from ..drivers.broker_client import Unkicked, await_version, kick
from ..drivers.broker_files import credentials
from ..drivers.fetcher import Fetcher
from ..drivers.provider import Provider
from ..errors import IpdcError
from ..home import Home
from ..settings import Settings
from .background import Background, note

MEMBERS = "members"  # owns the member list among the node's content
SILENT = 100.0  # seconds; longer than mosquitto waits for somebody who connects and says nothing
SHUT_OUT = 60.0  # seconds that a member who flooded us is kept out
DISBELIEF = 30.0  # seconds in which nothing is fetched from a member whose list was none
FETCH = 4.0  # seconds in which a list of at most 64 KiB has to come, and until its holder is asked again
FETCHES = 4  # at once, each from another member
ENFORCED = 5.0  # seconds that a new list may take until the broker has it
ANNOUNCE = (5.0, 10.0, 20.0, 60.0)  # seconds between two announcements of a restored authority ...
ANNOUNCED = 3600.0  # ... and for how long there are any
TOLD = 10.0  # seconds that the announcement to each eight members may take, which themselves have five


class ListNotHad(IpdcError):
    """It did not come within {seconds:g} s."""


class ChildFailed(IpdcError):
    """The child `{word}` failed: {reason}"""


def held_list(own: identity.Identity) -> HeldList:
    """The list in identity/, as the core holds it."""
    return HeldList(own.members, raw_cid(own.signed), member_list.pack(own.signed))


class Domain:
    """Member lists, and what is let in by them. `emit` takes events for the core, `cut` ends the gateway connections of
    some nodes, `restart` has the daemon begin anew in another domain."""

    def __init__(
        self, own: identity.Identity, home: Home, settings: Settings, store: BlockStore, fetcher: Fetcher,
        background: Background, emit: Callable[[e.Event], None], cut: Callable[[tuple[str, ...]], None],
        restart: Callable[[], None], supervised: bool,
    ) -> None:
        self.identity, self.home, self.settings, self.store, self.fetcher = own, home, settings, store, fetcher
        self.background, self.emit, self.cut, self.restart = background, emit, cut, restart
        self.supervised = supervised  # whether the broker is started again when it ends
        self.loop = asyncio.get_running_loop()
        self.held = held_list(own)
        self.enforced = asyncio.Event()  # the broker has the newest list
        self.enforced.set()
        self.leaving = False  # the command that asked for it changes the files itself
        self._ids = {member.id for member in own.members.members}
        self._fetching: dict[str, None] = {}  # members whose list is awaited or looked at
        self._places, self._verifying = asyncio.Semaphore(FETCHES), asyncio.Lock()
        self._disbelieved: dict[str, float] = {}  # members, so they are few
        self._shut_out: dict[str, float] = {}
        self._updating = asyncio.Lock()
        self._access = own.members.version

    @property
    def members(self) -> MemberList:
        """The present list."""
        return self.held.members

    def keep_list(self) -> None:
        """Make the present list content of this node, for those who fetch it."""
        if self.store.size(self.held.cid) is None:
            self.store.release(MEMBERS)
            self.store.put(self.held.cid, self.identity.signed, MEMBERS, on_disk=True)

    def admits(self, node: str) -> bool:
        """Whether the node is a member, and not shut out at present."""
        return node in self._ids and node not in self._shut_out

    # -- a list comes

    def fetch(self, effect: fx.FetchMembers) -> None:
        """A peer says that it holds a newer list: one of each peer is fetched and verified, and the peers tell again.
        Nobody's list waits for another's that does not come, or whoever is to be expelled could hold that up. Who told
        a list that is none is not believed for a while: to find that out may cost a process."""
        if effect.node not in self._fetching and time.monotonic() >= self._disbelieved.get(effect.node, 0.0):
            self._fetching[effect.node] = None
            self.background.start(self._fetch(effect))

    async def _fetch(self, effect: fx.FetchMembers) -> None:
        try:
            data = member_list.unpack(effect.packed) if effect.packed else await self._had(effect)
            async with self._verifying:  # one child at a time
                if self._is_newer(effect, data):
                    await self._verify(data)
                    await asyncio.to_thread(identity.store_members, self.home, data)
                    await self.adopt()
        except (IpdcError, OSError) as error:
            pause = DISBELIEF if isinstance(error, member_list.BadMemberList) else FETCH
            self._disbelieved[effect.node] = time.monotonic() + pause
            note(f"member list {effect.version} of {effect.node} is not taken: {error}")
        finally:
            del self._fetching[effect.node]

    async def _had(self, effect: fx.FetchMembers) -> bytes:
        async with self._places:
            try:
                async with asyncio.timeout(FETCH):
                    return await self.fetcher.block(effect.cid, [Provider(effect.node, effect.gateway)])
            except TimeoutError:
                raise ListNotHad(seconds=FETCH) from None

    def _is_newer(self, effect: fx.FetchMembers, data: bytes) -> bool:
        """Whether it is worth a child: not when another peer's came first. Raises BadMemberList."""
        members = member_list.parse(data)[0]
        if (members.authority, members.version) != (self.identity.authority, effect.version):
            raise member_list.BadMemberList(reason=f"it is version {members.version} of {members.authority}")
        return members.version > self.members.version

    async def _verify(self, data: bytes) -> None:
        answer = await self._judge("verify", data)
        if not answer.get("ok"):
            raise member_list.BadMemberList(reason=str(answer.get("reason"))[:300])

    async def verify_swarm_key(self, data: bytes) -> None:
        """Returns if this domain's authority signed this key of the Kubo nodes' network. Raises BadSwarmKey."""
        answer = await self._judge("verify-swarm-key", data)
        if not answer.get("ok"):
            from ..codec.swarm_key import BadSwarmKey

            raise BadSwarmKey(reason=str(answer.get("reason"))[:300])

    async def make_swarm_key(self) -> None:
        """Has this authority make one where there is none. Raises IpdcError, OSError."""
        await self._child("make-swarm-key")

    async def _judge(self, word: str, data: bytes) -> dict[str, object]:
        with open(self.identity.authority_certificate, encoding="ascii") as file:
            question = {"list": base64.b64encode(data).decode(), "authority": file.read()}
        return await self._child(word, stdin=json.dumps(question).encode())

    async def _child(self, *words: str, stdin: bytes = b"") -> dict[str, object]:
        """What the child that may load `cryptography` answers."""
        child = await asyncio.create_subprocess_exec(
            *identity.child_command(*words), env=identity.child_environment(self.home), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE)
        try:
            said, _ = await child.communicate(stdin)
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
        try:
            answer = dict(json.loads(said))
        except (ValueError, TypeError):
            raise ChildFailed(word=words[0], reason=f"it ended with {child.returncode}; see the log") from None
        if "error" in answer:
            raise IpdcError.from_dict(answer["error"])
        return answer

    async def adopt(self) -> None:
        """Take up the list that lies in identity/, if it is newer, and return when it is enforced."""
        found = await asyncio.to_thread(identity.load, self.home)
        if found.authority != self.identity.authority or found.members.version <= self.members.version:
            return
        self.identity, self.held = found, held_list(found)
        self.keep_list()
        self.enforced.clear()
        self.emit(e.MembersAdopted(self.held))
        try:
            async with asyncio.timeout(ENFORCED):
                await self.enforced.wait()
        except TimeoutError:
            note(f"member list {found.members.version} is not enforced after {ENFORCED:g} s")

    async def expel(self, node: str) -> None:
        """A member asked to be taken off the list that this node may sign."""
        try:
            await self._child("expel", node)
            await self.adopt()
            note(f"{node} left the domain")
        except (IpdcError, OSError) as error:
            note(f"{node} wants to leave and is still on the list: {error}")

    async def announce(self, admission: Admission, membership: Membership, encode: Callable[[Members], bytes]) -> None:
        """The authority came here from a backup: members that do not know this node hear of the list from the authority
        itself, until all whose addresses are known have it. From one that has it the others get it too."""
        began, rounds = time.monotonic(), 0
        while time.monotonic() - began < ANNOUNCED:
            await asyncio.sleep(ANNOUNCE[min(rounds, len(ANNOUNCE) - 1)])
            rounds += 1
            others = [member.id for member in self.members.members if member.id != self.identity.id]
            known = {node: membership.addresses[node][0] for node in others if node in membership.addresses}
            late = {node: address for node, address in known.items()
                    if admission.confirmed.get(node) != self.members.version}
            if late:
                await self._announce(late, membership, encode)
            elif known or not others:
                break
        await asyncio.to_thread(identity.announced, self.home, self.identity.authority)

    async def _announce(self, late: dict[str, str], membership: Membership, encode: Callable[[Members], bytes]) -> None:
        held, own = self.held, membership.own
        if not held.packed:
            return note("the member list is too long to be announced by the authority itself")
        said = encode(Members(held.members.version, held.cid, own.mqtt, own.gateway, held.packed)).decode()
        try:
            async with asyncio.timeout(TOLD * (1 + len(late) // 8)):
                question = json.dumps({"members": late, "payload": said})
                answer = await self._child("announce", stdin=question.encode())
            note(f"the restored authority told {len(list(answer['told']))} of {len(late)} members of its list")
        except (IpdcError, OSError) as error:
            note(f"the restored authority could not be announced: {str(error) or type(error).__name__}")

    # -- a list is enforced

    def enforce(self, members: MemberList, expelled: tuple[str, ...]) -> None:
        """Let in these members and nobody else, from now on and in what is open."""
        self._ids = {member.id for member in members.members}
        names = {member.id: member.name for member in members.members}
        note(f"member list {members.version}: {', '.join(names.values())}"[:500])
        for node in expelled:
            note(f"{node} is not a member any more: its connections end")
        self._cut(expelled)

    def _cut(self, nodes: tuple[str, ...]) -> None:
        """Rewrite the broker's lists, and end what these nodes have open at the broker and the gateway."""
        self.cut(nodes)
        self.background.start(self._update_broker(nodes))

    async def _update_broker(self, nodes: tuple[str, ...]) -> None:
        async with self._updating:
            self._access += 1  # the broker's own count: a list without somebody who is shut out is of no other version
            let_in = tuple(member for member in self.members.members if self.admits(member.id))
            shown = replace(self.members, members=let_in, version=self._access)
            try:
                running = await asyncio.to_thread(broker.update, self.home, replace(self.identity, members=shown))
                if not running:
                    note("no broker was found that could read the new member list: it does when it starts")
            except (IpdcError, OSError) as error:
                note(f"the broker's access list could not be renewed: {error}")
                running = False
            if running:
                await self._await_access()
            self.enforced.set()
            if not nodes or not running:
                return
            await self._kick(nodes)
        self.loop.call_later(SILENT, self._kick_again, nodes)

    async def _await_access(self) -> None:
        """The next list must not come while the broker reads this one."""
        try:
            password = credentials(self.home)[1]
            await asyncio.to_thread(await_version, self.settings.local_port, password, self._access,
                                    lambda: broker.read_again(self.home))
        except (IpdcError, OSError, Unkicked) as error:
            note(f"the broker does not say whether it has read its access list: {error}")

    def _kick_again(self, nodes: tuple[str, ...]) -> None:
        """Who was in the middle of connecting when the list came may still have got in, though silenced."""
        gone = tuple(node for node in nodes if not self.admits(node))
        if gone:
            self.background.start(self._kick(gone))

    async def _kick(self, nodes: tuple[str, ...]) -> None:
        try:
            password = credentials(self.home)[1]
            await asyncio.to_thread(kick, self.settings.local_port, password, nodes, self._access)
            await asyncio.to_thread(self._forget_retained, frozenset(nodes))
        except (IpdcError, OSError, Unkicked) as error:
            note(f"connections of {', '.join(nodes)} at the broker could not be ended: {error}")
            if self.supervised:  # any local user can fill the broker's local listener; nobody gains time by it
                note("the broker is restarted instead")
                await asyncio.to_thread(broker.restart, self.home)

    def _forget_retained(self, nodes: frozenset[str]) -> None:
        """Of who is no member the broker shall retain no record and no last will."""
        from ..drivers.retained import forget  # rarely needed

        gone = nodes - {member.id for member in self.members.members}
        if gone:
            forget(self.settings.local_port, credentials(self.home), f"ipdc/1/{self.members.domain}", gone)

    def broker_began(self) -> None:
        """The daemon is connected to its broker, which tells it from now on whom it refuses: mosquitto names
        addresses only together with two lines for every welcome connection, too many for a journal on flash."""
        self.background.start(self._broker_began())

    async def _broker_began(self) -> None:
        try:
            async with self._updating:
                await asyncio.to_thread(broker.log_to_topics, self.home)
        except (IpdcError, OSError) as error:
            note(f"the broker's refusals cannot be read: {error}")

    def flooded(self, node: str) -> None:
        """A member sends more than anybody's work takes: keep it out for a while, and say so."""
        if node in self._shut_out or node == self.identity.id:
            return
        note(f"{node} floods this node with messages: it is shut out for {SHUT_OUT:g} s")
        self._shut_out[node] = time.monotonic()
        self._cut((node,))
        self.loop.call_later(SHUT_OUT, self._let_in_again, node)

    def _let_in_again(self, node: str) -> None:
        del self._shut_out[node]
        self._cut(())

    # -- the node changes its domain

    def left(self, effect: fx.LeaveDomain) -> None:
        """This node is no member any more: alone again, at once."""
        note(effect.reason)
        if not self.leaving:
            self.background.start(self._leave())

    async def _leave(self) -> None:
        await asyncio.to_thread(identity.forget, self.home, self.identity.authority)
        await self.changed()

    async def changed(self) -> bool:
        """The files of identity/ may have changed: take up a newer list, or begin anew in another domain. Whether
        the daemon begins anew."""
        try:
            now = await asyncio.to_thread(identity.load, self.home)
        except identity.NoIdentity:
            now = None
        if now is not None and now.authority == self.identity.authority and now.id == self.identity.id:
            await self.adopt()
            return False
        self.restart()
        return True
