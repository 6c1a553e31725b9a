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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

MAX_BYTES = 16 << 20
"""A larger file is refused unread; a device takes some 80 bytes."""


@dataclass(frozen=True)
class Device:
    device_id: int
    """Number of the device on its server."""
    device_ip: str
    """Its own network address; empty where the table has none."""
    rank_id: int


@dataclass(frozen=True)
class Server:
    server_id: str
    """Its IP address."""
    devices: tuple[Device, ...]
    """By rank."""


@dataclass(frozen=True)
class RankTable:
    servers: tuple[Server, ...]
    """By their ranks: the first one holds rank 0 and is the master."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices; the place of each is its rank."""
        return tuple(device for server in self.servers for device in server.devices)

    def this_server(self, server_id: str = "") -> int:
        """The place of `server_id` in `servers`, or of the server whose address is this machine's.

        A table of one server means this machine, whatever its address. Raises UserError where no
        server, or more than one, is meant.
        """
        ids = [server.server_id for server in self.servers]
        if server_id:
            if server_id in ids:
                return ids.index(server_id)
            raise UserError(f"--server_id {server_id}: the rank table has {', '.join(ids)}")
        if len(ids) == 1:
            return 0
        own = [place for place, name in enumerate(ids) if is_local_address(name)]
        if len(own) != 1:
            raise UserError(
                f"{len(own) or 'none'} of the rank table's servers ({', '.join(ids)}) "
                "have an address of this machine; say which one it is with --server_id"
            )
        return own[0]


def is_local_address(address: str) -> bool:
    """Whether an IP address is one of this machine's: only then can a socket be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def read_rank_table(path: str | Path) -> RankTable:
    """Read and check a rank table. Raises UserError naming the place that is wrong."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"rank table {path} is larger than {MAX_BYTES} bytes; refused")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read rank table {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"rank table {path} is not valid JSON: {error}") from None
    try:
        return _table(data)
    except _Wrong as error:
        raise UserError(f"rank table {path}: {error}") from None


class _Wrong(Exception):
    """What is wrong with a table, without its path."""


def _table(data: Any) -> RankTable:
    _expect_group(data, "the file")
    if _text(data, "version", "") != "1.0":
        raise _Wrong(f'version: expected "1.0", got {data["version"]!r}')
    if "status" in data and _text(data, "status", "") != "completed":
        raise _Wrong(f'status: expected "completed", got {data["status"]!r}')
    servers = [
        _server(entry, f"server_list[{number}]")
        for number, entry in enumerate(_list(data, "server_list", ""))
    ]
    count = _number(data, "server_count", "")
    if count != len(servers):
        raise _Wrong(f"server_count is {count}, but server_list has {len(servers)} servers")
    _no_twice([server.server_id for server in servers], "server_id")
    ranks = sorted(device.rank_id for server in servers for device in server.devices)
    _no_twice(ranks, "rank_id")
    if ranks != list(range(len(ranks))):
        raise _Wrong(
            f"the {len(ranks)} devices need the rank_ids 0 to {len(ranks) - 1}, they have "
            f"{_short(ranks)}"
        )
    for server in servers:
        first = server.devices[0].rank_id
        own = [device.rank_id for device in server.devices]
        if own != list(range(first, first + len(own))):
            raise _Wrong(
                f"server {server.server_id} has the ranks {_short(own)}; the ranks of a server "
                "must follow each other"
            )
    return RankTable(tuple(sorted(servers, key=lambda server: server.devices[0].rank_id)))


def _server(entry: Any, where: str) -> Server:
    _expect_group(entry, where)
    server_id = _text(entry, "server_id", where)
    _expect_address(server_id, f"{where}.server_id")
    devices = [
        _device(device, f"{where}.device[{number}]")
        for number, device in enumerate(_list(entry, "device", where))
    ]
    _no_twice([device.device_id for device in devices], f"{where}: device_id")
    return Server(server_id, tuple(sorted(devices, key=lambda device: device.rank_id)))


def _device(entry: Any, where: str) -> Device:
    _expect_group(entry, where)
    address = _text(entry, "device_ip", where) if "device_ip" in entry else ""
    if address:
        _expect_address(address, f"{where}.device_ip")
    return Device(_number(entry, "device_id", where), address, _number(entry, "rank_id", where))


def _expect_group(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _Wrong(f"{where}: expected a group in braces, got {_short(value)}")


def _expect_address(text: str, where: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise _Wrong(f"{where}: expected an IP address, got {text!r}") from None


def _value(group: dict[str, Any], name: str, where: str) -> tuple[Any, str]:
    place = f"{where}.{name}" if where else name
    if name not in group:
        raise _Wrong(f"{place} is missing")
    return group[name], place


def _text(group: dict[str, Any], name: str, where: str) -> str:
    value, place = _value(group, name, where)
    if not isinstance(value, str):
        raise _Wrong(f"{place}: expected a string in quotes, got {_short(value)}")
    return value


def _number(group: dict[str, Any], name: str, where: str) -> int:
    text = _text(group, name, where)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        place = f"{where}.{name}" if where else name
        raise _Wrong(f'{place}: expected a number in quotes, such as "0", got {text!r}')
    return int(text)


def _list(group: dict[str, Any], name: str, where: str) -> list[Any]:
    value, place = _value(group, name, where)
    if not isinstance(value, list) or not value:
        raise _Wrong(f"{place}: expected a list with at least one entry, got {_short(value)}")
    return value


def _no_twice(values: list[Any], what: str) -> None:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise _Wrong(f"{what} {value} comes twice")
        seen.add(value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
