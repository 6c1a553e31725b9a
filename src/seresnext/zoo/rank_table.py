"""The original's rank table: which devices of which servers train, and as which ranks.

    {"version": "1.0", "server_count": "1", "server_list": [{"server_id": "10.0.0.1", "device": [
      {"device_id": "0", "device_ip": "192.1.0.6", "rank_id": "0"}], "host_nic_ip": "reserve"}],
     "status": "completed"}

Every scalar is a string. `hccl_tools.py` of the model zoo writes such files.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from ..errors import UserError
from ..files import read_json

MAX_BYTES = 16 << 20
"""A larger file is refused unread; a device takes some 80 bytes."""


def _number(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError("a string in quotes")
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ValueError('a number in quotes, such as "0"')
    return int(value)


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("an IP address") from None
    return text


Number = Annotated[int, BeforeValidator(_number)]
Address = Annotated[str, AfterValidator(_address)]
OptionalAddress = Annotated[str, AfterValidator(lambda text: text and _address(text))]


@dataclass(frozen=True)
class Device:
    device_id: Number
    """Number of the device on its server."""
    rank_id: Number
    device_ip: OptionalAddress = ""
    """Its own network address; empty if the table has none."""


@dataclass(frozen=True)
class Server:
    server_id: Address
    """Its IP address."""
    devices: Annotated[tuple[Device, ...], Field(alias="device", min_length=1)]
    """In order of rank."""


@dataclass(frozen=True)
class RankTable:
    version: Literal["1.0"]
    server_count: Number
    servers: Annotated[tuple[Server, ...], Field(alias="server_list", min_length=1)]
    """In order of rank: the first one has rank 0 and is the master."""
    status: Literal["completed"] = "completed"

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices; the index of each is its rank."""
        return tuple(device for server in self.servers for device in server.devices)

    def this_server(self, server_id: str = "") -> int:
        """Index in `servers` of `server_id`; without it, of the server whose address is local.

        The only server of a table is this machine, whatever its address. Raises UserError if no
        server, or more than one, qualifies.
        """
        ids = [server.server_id for server in self.servers]
        if server_id:
            if server_id in ids:
                return ids.index(server_id)
            raise UserError(f"--server_id {server_id}: the rank table has {', '.join(ids)}")
        if len(ids) == 1:
            return 0
        own = [index for index, name in enumerate(ids) if is_local_address(name)]
        if len(own) != 1:
            raise UserError(
                f"{len(own) or 'none'} of the rank table's servers ({', '.join(ids)}) "
                "have an address of this machine; choose one with --server_id"
            )
        return own[0]


def is_local_address(address: str) -> bool:
    """Whether an IP address is one of this machine: only then can a socket be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def read_rank_table(path: str | Path) -> RankTable:
    """Read and check a rank table. Raises UserError naming the place of an error."""
    data = read_json(Path(path), "rank table", MAX_BYTES)
    try:
        return _in_order(_TABLE.validate_python(data))
    except ValidationError as error:
        reason = _explain(error)
    except ValueError as error:
        reason = str(error)
    raise UserError(f"rank table {path}: {reason}")


_TABLE = TypeAdapter(RankTable)
_EXPECTED = {
    "dataclass_type": "a group in braces",
    "list_type": "a list with at least one entry",
    "string_type": "a string in quotes",
    "string_unicode": "a string in Unicode",
    "too_short": "a list with at least one entry",
    "tuple_type": "a list with at least one entry",
}
"""pydantic's type of error -> what was expected."""


def _explain(error: ValidationError) -> str:
    """The first problem: place, what was expected, what was found."""
    first = error.errors(include_url=False)[0]
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
    place = place.lstrip(".") or "the file"
    if first["type"] == "missing":
        return f"{place} is missing"
    context = first.get("ctx", {})
    if first["type"] == "literal_error":
        expected = context["expected"].replace("'", '"')
    else:
        expected = _EXPECTED.get(first["type"]) or str(
            context.get("error", "a value of another kind")
        )
    return f"{place}: expected {expected}, got {_short(first['input'])}"


def _in_order(table: RankTable) -> RankTable:
    """The table with servers and devices in order of rank. Raises ValueError if they contradict."""
    count = len(table.servers)
    if table.server_count != count:
        raise ValueError(
            f"server_count is {table.server_count}, but server_list has {count} servers"
        )
    _expect_unique([server.server_id for server in table.servers], "server_id")
    for number, server in enumerate(table.servers):
        ids = [device.device_id for device in server.devices]
        _expect_unique(ids, f"server_list[{number}]: device_id")
    ranks = sorted(device.rank_id for device in table.devices)
    _expect_unique(ranks, "rank_id")
    if ranks != list(range(len(ranks))):
        raise ValueError(
            f"the {len(ranks)} devices need the rank_ids 0 to {len(ranks) - 1}, they have "
            f"{_short(ranks)}"
        )
    servers = []
    for server in table.servers:
        devices = sorted(server.devices, key=lambda device: device.rank_id)
        own = [device.rank_id for device in devices]
        if own != list(range(own[0], own[0] + len(own))):
            raise ValueError(
                f"server {server.server_id} has the ranks {_short(own)}; the ranks of a server "
                "must follow each other"
            )
        servers.append(replace(server, devices=tuple(devices)))
    return replace(table, servers=tuple(sorted(servers, key=lambda s: s.devices[0].rank_id)))


def _expect_unique(values: Sequence[object], what: str) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"{what} {repeated[0]} comes twice")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
