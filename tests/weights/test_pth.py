"""PyTorch's files as other people write them, and hostile pickles: read as data, never run."""

from __future__ import annotations

import argparse
import collections
import datetime
import pickle
import resource
import struct
import subprocess
import sys
import time
import types
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seresnext.errors import UserError
from seresnext.model.architecture import architecture
from seresnext.model.init import init_weights
from seresnext.weights.load import load_weights
from seresnext.weights.pth import list_pth

SMALL = architecture("seresnext50_32x4d", layers=(1, 1, 1, 1), num_classes=3, cardinality=2)
WEIGHTS = init_weights(SMALL, 5)


def state(prefix: str = "", add: float = 0) -> dict[str, torch.Tensor]:
    return {prefix + n: torch.from_numpy(a) + add for n, a in WEIGHTS.items()}


def loaded(content: Any, path: Path, **options: Any) -> Any:
    """What is read from `content`; the weights are those of `state()`."""
    torch.save(content, path, **options)
    found = load_weights(path)
    for name, array in WEIGHTS.items():
        assert np.array_equal(found.weights[name], array), name
    return found


# Tensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_read_as_torch_reads_them(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(120, dtype=torch.float32)
    tensors = {
        "part": base[7:20].reshape(13),
        "turned": base.reshape(4, 5, 6).permute(2, 0, 1),
        "nhwc": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "every second": base[::2],
        "repeated": torch.tensor([3.0]).expand(5),
        "parameter": torch.nn.Parameter(torch.rand(2, 2)),
        "scalar": torch.tensor(7),
        "nothing": torch.zeros(0, 4),
        **{str(t): torch.tensor([1, 0, 3]).to(t) for t in (torch.half, torch.int8, torch.bool)},
    }
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found, _ = list_pth(tmp_path / "a.pth")
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        array = found[name].read()
        assert array.dtype == found[name].dtype
        assert np.array_equal(array, tensor.detach().numpy()), name
    torch.save({"x": torch.tensor([1.5, -3e38]).bfloat16()}, tmp_path / "b.pth")
    stored = list_pth(tmp_path / "b.pth")[0]["x"]
    assert stored.read().tolist() == torch.tensor([1.5, -3e38]).bfloat16().tolist()


def test_torch_is_not_needed(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from seresnext.weights.load import load_weights\n"
        "print(load_weights(sys.argv[1]).used)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.pth"], capture_output=True, text=True
    )
    assert done.stdout == f"{len(WEIGHTS)}\n", done.stderr


# Wrappers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    "state_dict model_state_dict model net ema module weights params checkpoint my_name".split(),
)
def test_weights_are_found_by_what_they_are(key: str, tmp_path: Path) -> None:
    beside = {"epoch": 3, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}}
    found = loaded({key: state("module."), **beside}, tmp_path / "a.pth")
    assert found.notes[0].startswith(f"read the weights under '{key}'; left out what lies beside:")
    found = loaded({"outer": {key: state()}, "best": 0.5}, tmp_path / "b.pth")
    assert found.notes == [f"read the weights under 'outer.{key}'; left out what lies beside: best"]


def test_which_of_several_networks(tmp_path: Path) -> None:
    other = state(add=1)
    for beside in ("state_dict", "teacher", "optimizer_by_name"):
        loaded({beside: other, "model_ema": {"module": state()}}, tmp_path / "a.pth")
    loaded({"optim": {"momentum": other}, "last": state()}, tmp_path / "a.pth")
    loaded({"best": other, "state_dict": state()}, tmp_path / "a.pth")
    found = loaded({**state("model.", 1), **state("ema_model.module.")}, tmp_path / "b.pth")
    assert "took 'ema_model.module.' off the names; left out the network under 'model.'" in (
        found.notes
    )
    torch.save({"student": state(), "teacher": other}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="several networks, under student, teacher; save the one"):
        load_weights(tmp_path / "c.pth")


def test_harmless_values_beside_the_weights(tmp_path: Path) -> None:
    beside = {
        "best": np.float64(0.5),
        "array": np.arange(3),
        "texts": np.array(["a", "b"]),
        "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "where": Path("runs/a"),
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, a=[1]),
        "counts": collections.Counter("aab"),
        "queue": collections.deque([1, 2]),
        "sets": ({1, 2}, frozenset("ab")),
        "args": argparse.Namespace(lr=0.1),
        "more": types.SimpleNamespace(x=1),
        "id": uuid.UUID(int=1),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "complex": 1j,
        "bytes": b"abc",
        "array of bytes": bytearray(b"abc"),
        "rng": torch.get_rng_state(),
        "slice": slice(1, 2),
    }
    for zipped in (True, False):
        content = {"state_dict": state(), **beside}
        loaded(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    for protocol in (2, 3, 4, 5):
        loaded(content, tmp_path / "a.pth", pickle_protocol=protocol)


def test_records_in_the_state_dict_itself(tmp_path: Path) -> None:
    content = {
        **state("module."),
        "epoch": 3,
        "n_averaged": torch.tensor(9),
        "criterion.weight": torch.ones(1),
        "loss_fn.centers": torch.ones(3, 8),
        "val_metric.confmat": torch.zeros(3, 3),
        "module.total_ops": torch.zeros(1),
        "module.layer1.0.conv1.total_params": torch.zeros(1),
        "module.bn1.num_batches_tracked": torch.tensor(4),
    }
    found = loaded(content, tmp_path / "a.pth")
    assert found.notes == [
        "left out entries that are no tensors: epoch",
        "took 'module.' off the names",
    ]
    assert found.dropped == {
        "beside the network: counters, criteria, metrics": [
            *("n_averaged", "criterion.weight", "loss_fn.centers", "val_metric.confmat")
        ],
        "profilers' counters": ["total_ops", "layer1.0.conv1.total_params"],
        "BN batch counters": ["bn1.num_batches_tracked"],
    }
    for name, tensor in (("neck.0.weight", torch.ones(4, 4)), ("layer1.0.gain", torch.ones(1))):
        torch.save({**state(), name: tensor}, tmp_path / "b.pth")
        with pytest.raises(UserError, match=f"unknown {name}"):
            load_weights(tmp_path / "b.pth")


# Hostile pickles ---------------------------------------------------------------------------


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def calls(module: str, name: str, arguments: bytes) -> bytes:
    return short(module) + short(name) + b"\x93" + arguments + b"R"


HUGE = b"\x8a\x05" + (8 << 30).to_bytes(5, "little")
HOSTILE = {
    "a call": calls("os", "system", short("touch executed") + b"\x85"),
    "a nested name": calls("torch", "serialization.os.system", short("touch executed") + b"\x85"),
    "a class": b"cbuiltins\neval\n" + short("1") + b"\x85\x81",
    "8 GB of bytes": calls("builtins", "bytearray", HUGE + b"\x85"),
    "8 GB that are not there": b"\x96" + struct.pack("<Q", 8 << 30),
    "a huge text": b"X" + struct.pack("<I", 0xFFFFFFFF),
    "a huge memo": b"Nr\xff\xff\xff\x7f",
    "doubled tuples": b")" + b"2\x86" * 400,
    "doubled tuples as a key": b"}" + b")" + b"2\x86" * 400 + b"Ns",
    "doubled tuples as a name": b")" + b"2\x86" * 400 + short("x") + b"\x93",
    "doubled tuples as a size": calls("torch", "Size", b")" + b"2\x86" * 400 + b"\x85"),
    "doubled dictionaries": b"}"
    + b"".join(b"q%c}(X\1\0\0\0ah%cX\1\0\0\0bh%cu" % (i, i, i) for i in range(100)),
    "nested lists": b"]" * 100_000 + b"a" * 99_999,
    "nested dictionaries": b"}" * 100_000 + b"",
    "nested calls": b"N" + b"".join([b"\x85"] * 50_000),
    "a list of itself": b"]q\0h\0a",
    "a persistent id": b"}" + b"(" + short("module") + b"NNNNtQ",
    "a storage of tuples": b"("
    + short("storage")
    + b"ctorch\nFloatStorage\n"
    + b")"
    + b"2\x86" * 400
    + short("cpu")
    + b"K\1tQ",
    "no stack": b"00000",
    "no mark": b"t",
    "an extension": b"\x82\x01",
    "a long number": b"\x8b" + struct.pack("<i", 1 << 20) + b"\xff" * (1 << 20),
    "digits": b"I" + b"9" * 100_000 + b"\n",
    "an endless name": b"c" + b"a" * 100_000 + b"\nb\n",
}


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickles_are_refused_quickly(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for name, code in HOSTILE.items():
        data = b"\x80\x04" + code + b"."
        if zipped:
            with zipfile.ZipFile("a.pth", "w") as archive:
                archive.writestr("a/data.pkl", data)
        else:
            head = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001)]
            machine = pickle.dumps({"little_endian": True}, 2)
            Path("a.pth").write_bytes(b"".join([*head, machine, data]))
        with pytest.raises(UserError) as caught:
            load_weights("a.pth")
        text = str(caught.value)
        assert text.isprintable(), name
        assert len(text) < 500, (name, text)
        assert "weights_only" not in text
    assert not Path("executed").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert time.process_time() - started < 10


def test_a_refusal_names_the_type(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(UserError) as caught:
        load_weights(tmp_path / "a.pth")
    assert "it holds a pickled object, torch.nn.modules.linear.Linear, where only" in str(
        caught.value
    )


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(4)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as old,
        zipfile.ZipFile(tmp_path / "b.pth", "w") as new,
    ):
        for member in old.namelist():
            data = old.read(member)
            new.writestr(member, data[:8] if member.endswith("data/0") else data)
    with pytest.raises(UserError, match="entry 'x' is larger than what the file holds of it"):
        load_weights(tmp_path / "b.pth")
