"""The kernel's table of connections in this network namespace (conntrack), by netlink."""

import errno
import re
import socket
import struct
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pyroute2.netlink import NLM_F_DUMP, NLM_F_MULTI, NLM_F_REQUEST, NetlinkError, nla
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_CTNETLINK
from pyroute2.netlink.nfnetlink.nfctsocket import IPCTNL_MSG_CT_GET, NFCTAttrTuple, NFCTSocket, nfct_msg
from pyroute2.netlink.nlsocket import NetlinkRequest

FEW = 8
"""The most addresses that are asked for one by one. The kernel then goes through its whole table for each, which takes some 5 ms
with 20,000 entries and 40 ms with 200,000; for more addresses, the table is read once, in 0.1 s for each 20,000 (D-566)."""

AT_ONCE = 50
"""How many entries are read before the first of them is passed on."""

_OTHER = {"header": {"type": 0, "flags": NLM_F_MULTI, "error": None}, "event": "other"}
"""What stands for an entry of nobody who was asked for, which is not decoded: decoding takes fifty times as long as passing on."""


@dataclass(frozen=True)
class Entry:
    """A connection, as the side that opened it sees it: before addresses are translated.

    Attributes:
        source: the address that opened it.
        destination: the address that it was opened to.
        protocol: the number of its protocol, as in an IP header.
        port: the destination port; None for a protocol without.
        key: what names it to the kernel.
    """

    source: str
    destination: str
    protocol: int
    port: int | None
    key: dict[str, Any]


class Table:
    """The table of the network namespace in which this is made.

    Raises:
        OSError: the kernel has no such table, or does not let this process read it.
    """

    def __init__(self) -> None:
        families = (socket.AF_INET, socket.AF_INET6)
        self._counting = NFCTSocket()
        # Entries are deleted while others are still being read.
        self._deleting = {family: NFCTSocket(nfgen_family=family) for family in families}
        for deleting in self._deleting.values():
            deleting.asyncore.local.keep_event_loop = True  # pyroute2 makes one for each request, which takes half of its time

    def size(self) -> int:
        """The number of entries."""
        return int(self._counting.count()[0].get_attr("CTA_STATS_GLOBAL_ENTRIES") or 0)

    def opened_by(self, addresses: Collection[str]) -> Iterator[Entry]:
        """The connections that one of the addresses opened, one after the other: a pod may have hundreds of thousands.

        Args:
            addresses: the addresses. Of one that the caller takes out meanwhile, no more entries come.

        Raises:
            OSError: the kernel refuses.
        """
        for family in self._deleting:
            mine = sorted(address for address in addresses if (":" in address) == (family == socket.AF_INET6))
            # Linux filters IPv6 the wrong way round: it leaves out the address that it is asked for (seen in 6.18).
            by_itself = len(mine) <= FEW and family == socket.AF_INET
            for asked in [[address] for address in mine] if by_itself else [mine] if mine else []:
                with NFCTSocket(nfgen_family=family) as reader:
                    for message in _messages(reader, family, addresses, asked, by_itself):
                        if (entry := _entry(message)) and entry.source in addresses:
                            yield entry
                        elif by_itself and asked[0] not in addresses:
                            break

    def delete(self, entry: Entry) -> bool:
        """Delete an entry. Returns False if it was gone.

        Raises:
            OSError: the kernel refuses.
        """
        family = socket.AF_INET6 if ":" in entry.source else socket.AF_INET
        try:
            self._deleting[family].entry("del", **entry.key)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise OSError(error.code, str(error)) from None
            return False
        return True


def _messages(reader: NFCTSocket, family: int, addresses: Collection[str], asked: list[str], by_itself: bool) -> Iterator[Any]:
    if by_itself:
        # A kernel before 5.8 ignores the filter, and sends the whole table.
        return reader.dump(tuple_orig=NFCTAttrTuple(family=family, saddr=asked[0]))  # type: ignore[no-any-return]
    return chain.from_iterable(reader._generate_with_cleanup(_whole_table, reader.asyncore, family, addresses, asked))


async def _whole_table(core: Any, family: int, addresses: Collection[str], asked: list[str]) -> AsyncIterator[Any]:
    """The entries in which the bytes of an address are that was asked for and is still wanted, and `_OTHER` for each other one."""
    names = {socket.inet_pton(family, address): address for address in asked}
    wanted = re.compile(b"|".join(map(re.escape, names)), re.DOTALL)

    def parse(data: bytes, offset: int, length: int) -> Any:
        kind, flags, number = struct.unpack_from("HHI", data, offset + 4)
        found = wanted.search(data, offset, offset + length)
        if kind >> 8 == NFNL_SUBSYS_CTNETLINK and not (found and names[found.group()] in addresses):
            return _OTHER
        return core.marshal.parse_one_message(kind, flags, number, data, offset, length)

    message = nfct_msg()
    kind = IPCTNL_MSG_CT_GET | NFNL_SUBSYS_CTNETLINK << 8
    request = NetlinkRequest(core, message, msg_type=kind, msg_flags=NLM_F_REQUEST | NLM_F_DUMP, parser=parse)
    message["nfgen_family"] = family
    await request.send()

    async def wanted_ones() -> AsyncIterator[Any]:
        # Not one by one: pyroute2 begins its event loop anew for each.
        found = []
        async for message in request.response():
            if message is not _OTHER:
                found.append(message)
            if len(found) == AT_ONCE:
                yield found
                found = []
        yield found

    return wanted_ones()


def _entry(message: Any) -> Entry | None:
    original = message.get_attr("CTA_TUPLE_ORIG")
    if original is None:
        return None
    address, protocol = original.get_attr("CTA_TUPLE_IP"), original.get_attr("CTA_TUPLE_PROTO")

    def side(name: str) -> str:
        return address.get_attr(f"CTA_IP_V4_{name}") or address.get_attr(f"CTA_IP_V6_{name}") or ""

    key = {"tuple_orig": _plain(original), "zone": message.get_attr("CTA_ZONE")}
    return Entry(side("SRC"), side("DST"), protocol.get_attr("CTA_PROTO_NUM"), protocol.get_attr("CTA_PROTO_DST_PORT"), key)


def _plain(part: Any) -> dict[str, Any]:
    """An attribute as it is sent, from one that was received."""
    values = part["attrs"]
    return {"attrs": [[name, _plain(value) if isinstance(value, nla) and value.get("attrs") else value] for name, value in values]}
