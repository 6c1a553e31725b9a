from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from seresnext.errors import UserError
from seresnext.zoo.rank_table import Device, is_local_address, read_rank_table
from zoo.rank_tables import table_of, write_table


def test_the_originals_example(tmp_path: Path) -> None:
    file = tmp_path / "rank_table.json"
    file.write_text(
        '{"version":"1.0","server_count":"1","server_list":[{"server_id":"10.0.0.1","device":['
        '{"device_id":"0","device_ip":"192.1.0.6","rank_id":"0"}],"host_nic_ip":"reserve"}],'
        '"status":"completed"}'
    )
    table = read_rank_table(file)
    assert [server.server_id for server in table.servers] == ["10.0.0.1"]
    assert table.devices == (Device(device_id=0, rank_id=0, device_ip="192.1.0.6"),)
    assert table.this_server() == 0


def test_servers_and_devices_come_by_rank(tmp_path: Path) -> None:
    data = table_of({"10.0.0.2": [4, 5], "10.0.0.1": [7]})
    data["server_list"].reverse()
    data["server_list"][1]["device"].reverse()
    table = read_rank_table(write_table(tmp_path, data))
    assert [server.server_id for server in table.servers] == ["10.0.0.2", "10.0.0.1"]
    assert [(d.rank_id, d.device_id) for d in table.devices] == [(0, 4), (1, 5), (2, 7)]


def change(path: str, value: Any) -> dict[str, Any]:
    """The table of two servers with one place changed, or taken out (None)."""
    data = copy.deepcopy(table_of({"10.0.0.1": [0, 1], "10.0.0.2": [0, 1]}))
    *parents, last = path.split("/")
    place: Any = data
    for step in parents:
        place = place[int(step) if step.isdigit() else step]
    key = int(last) if last.isdigit() else last
    if value is None:
        del place[key]
    else:
        place[key] = value
    return data


DEVICE = "server_list/1/device/0"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", "2.0", 'version: expected "1.0", got "2.0"'),
        ("version", None, "version is missing"),
        ("server_count", 2, "server_count: expected a string in quotes, got 2"),
        ("server_count", "3", "server_count is 3, but server_list has 2 servers"),
        ("server_count", "two", 'server_count: expected a number in quotes, such as "0"'),
        ("status", "initializing", 'status: expected "completed", got "initializing"'),
        ("server_list", [], "server_list: expected a list with at least one entry, got []"),
        ("server_list", {}, "server_list: expected a list"),
        ("server_list/0/server_id", "host", "server_list[0].server_id: expected an IP address"),
        ("server_list/0/server_id", "10.0.0.2", "server_id 10.0.0.2 comes twice"),
        ("server_list/0/device", None, "server_list[0].device is missing"),
        (DEVICE, "0", 'server_list[1].device[0]: expected a group in braces, got "0"'),
        (f"{DEVICE}/rank_id", 2, "server_list[1].device[0].rank_id: expected a string in quotes"),
        (f"{DEVICE}/rank_id", "3", "rank_id 3 comes twice"),
        (f"{DEVICE}/rank_id", "-1", "device[0].rank_id: expected a number in quotes"),
        (f"{DEVICE}/rank_id", "9", "need the rank_ids 0 to 3, they have [0, 1, 3, 9]"),
        (f"{DEVICE}/device_id", "1", "server_list[1]: device_id 1 comes twice"),
        (f"{DEVICE}/device_ip", "192.1.0", "device[0].device_ip: expected an IP address"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    file = write_table(tmp_path, change(path, value))
    with pytest.raises(UserError) as caught:
        read_rank_table(file)
    assert str(caught.value).startswith(f"rank table {file}: ")
    assert message in str(caught.value)


def test_ranks_of_a_server_follow_each_other(tmp_path: Path) -> None:
    data = table_of({"10.0.0.1": [0, 1], "10.0.0.2": [0, 1]})
    data["server_list"][0]["device"][1]["rank_id"] = "2"
    data["server_list"][1]["device"][0]["rank_id"] = "1"
    with pytest.raises(UserError, match="must follow each other"):
        read_rank_table(write_table(tmp_path, data))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rank_table.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="is not valid JSON"):
        read_rank_table(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read rank table .*: No such file"):
        read_rank_table(tmp_path / "nothing")


def test_this_server(tmp_path: Path) -> None:
    own = read_rank_table(write_table(tmp_path, table_of({"198.51.100.1": [0], "127.0.0.1": [0]})))
    assert own.this_server() == 1
    assert own.this_server("198.51.100.1") == 0
    with pytest.raises(UserError, match=r"--server_id 10.1.1.1: the rank table has 198.51.100.1"):
        own.this_server("10.1.1.1")
    none = read_rank_table(
        write_table(tmp_path, table_of({"198.51.100.1": [0], "198.51.100.2": [0]}))
    )
    with pytest.raises(UserError, match="choose one with --server_id"):
        none.this_server()


def test_addresses_of_this_machine() -> None:
    assert is_local_address("127.0.0.1")
    assert not is_local_address("198.51.100.1")  # kept free for documents, RFC 5737


def test_json_of_a_thousand_devices(tmp_path: Path) -> None:
    data = table_of({f"10.0.{n}.1": list(range(8)) for n in range(125)})
    table = read_rank_table(write_table(tmp_path, data))
    assert [device.rank_id for device in table.devices] == list(range(1000))
    assert json.loads((tmp_path / "rank_table.json").read_text()) == data
