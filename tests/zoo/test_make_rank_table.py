from __future__ import annotations

import json
from pathlib import Path

import pytest

from seresnext.errors import UserError
from seresnext.zoo import make_rank_table
from seresnext.zoo.rank_table import read_rank_table
from zoo.rank_tables import table_of


def test_two_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table that the training reads, with the devices' addresses of the servers' files."""
    expected = table_of({"10.0.0.1": [0, 1, 2, 3], "10.0.0.2": [0, 2]})
    arguments = ["--server", "10.0.0.1:0-3", "--server", "10.0.0.2:0,2"]
    for server in expected["server_list"]:
        file = tmp_path / f"{server['server_id']}.conf"
        lines = [f"address_{d['device_id']}={d['device_ip']}" for d in server["device"]]
        file.write_text("\n".join(["netmask_0=255.255.0.0", *lines, ""]))
        arguments += ["--hccn", f"{server['server_id']}={file}"]
    out = tmp_path / "table.json"
    assert make_rank_table.main([*arguments, "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == expected
    assert capsys.readouterr().out == f"{out}: 6 devices on 2 servers\n"
    with pytest.raises(UserError, match="exists already"):
        make_rank_table.main([*arguments, "--out", str(out)])


def test_devices_without_addresses_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_rank_table, "HCCN", tmp_path / "nothing")
    out = tmp_path / "table.json"
    assert make_rank_table.main(["--server", "::1:0-7", "--out", str(out)]) == 0
    assert len(read_rank_table(out).devices) == 8
    assert "without the devices' own addresses on ::1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--server 10.0.0.1", "expected IP:DEVICES"),
        ("--server host:0-7", "expected IP:DEVICES"),
        ("--server 10.0.0.1:0-x", "expected IP:DEVICES"),
        ("--server 10.0.0.1:7-0", "expected each device once"),
        ("--server 10.0.0.1:0-3,2", "expected each device once"),
        ("--server 10.0.0.1:0 --server 10.0.0.1:1", "an address comes twice"),
        ("--server 10.0.0.1:0 --hccn 10.0.0.2=F", "10.0.0.2 is none of the servers"),
        ("--server 10.0.0.1:0 --hccn 10.0.0.1=nothing", "cannot read nothing"),
    ],
)
def test_mistakes(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        make_rank_table.main(arguments.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "address_0=here", "address_1=192.1.0.6"])
def test_files_that_lack_the_device(text: str, tmp_path: Path) -> None:
    file, out = tmp_path / "hccn.conf", tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"hccn\.conf"):
        make_rank_table.main(
            ["--server", "10.0.0.1:0", "--hccn", f"10.0.0.1={file}", "--out", str(out)]
        )
    assert not out.exists()
