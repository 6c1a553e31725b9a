"""MindIR: the contract, and the format's own rules."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

pytest.importorskip("seresnext.runtimes.mindir", reason="needs MindSpore")

import mindspore
from mindspore.train.mind_ir_pb2 import ModelProto

from runtimes.contract import RuntimeContract
from runtimes.networks import (
    artifact,
    difference,
    engine_logits,
    random_images,
    random_weights,
    tiny_spec,
)
from seresnext.errors import UserError
from seresnext.exporters import mindir as mindir_export
from seresnext.runtimes.artifact import METADATA_KEY
from seresnext.runtimes.base import create_runtime
from seresnext.runtimes.mindir import user_info, with_user_info
from seresnext.runtimes.normalise import normalise


class TestContract(RuntimeContract):
    kind = "mindir"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mindir") / "model.mindir"
    described = artifact(tiny_spec())
    network = mindir_export.build(described, random_weights(tiny_spec()))
    mindir_export.write(network, described, path)
    return path


def signed(model: ModelProto, out: Path) -> Path:
    """A file with this content and a digest that fits, as an attacker could write it."""
    metadata = user_info(model)[METADATA_KEY]
    model.ClearField("user_info")
    data = model.SerializeToString()
    out.write_bytes(with_user_info(data, metadata, hashlib.sha256(data).hexdigest()))
    return out


def parsed(path: Path) -> ModelProto:
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def test_mindspore_alone_opens_the_file(path: Path) -> None:
    """It finds classes and preprocessing, and runs any batch size."""
    described = json.loads(user_info(mindspore.load_mindir(str(path)))["seresnext"])
    assert described["spec"]["class_names"][0] == "blue"
    assert described["source_sha256"] == "5" * 64
    graph = mindspore.nn.GraphCell(mindspore.load(str(path)))
    pixels = normalise(random_images(9, 32), tiny_spec().input)
    for count in (9, 2):
        logits = graph(mindspore.Tensor(pixels[:count])).asnumpy()
        assert difference(logits, engine_logits(tiny_spec())[:count]) < 1e-5
    assert path.stat().st_mode & 0o444  # MindSpore writes files that only their owner can read


def refused(path: Path, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        create_runtime(path)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_one_flipped_bit_is_refused(path: Path, tmp_path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 4
    (tmp_path / "m.mindir").write_bytes(data)
    refused(tmp_path / "m.mindir", "export it again")


def test_a_lengthened_file_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "m.mindir").write_bytes(path.read_bytes() + b"\x22\x01x")  # a valid field
    refused(tmp_path / "m.mindir", "not as it was written")


def test_a_file_without_metadata_is_refused(path: Path, tmp_path: Path) -> None:
    model = parsed(path)
    model.ClearField("user_info")
    (tmp_path / "m.mindir").write_bytes(model.SerializeToString())
    refused(tmp_path / "m.mindir", "carries no metadata of this package")


def test_weights_in_another_file_are_refused(path: Path, tmp_path: Path) -> None:
    model = parsed(path)
    tensor = model.graph.parameter[0]
    tensor.ClearField("raw_data")
    tensor.external_data.location = "../../etc/passwd"
    refused(signed(model, tmp_path / "m.mindir"), "keeps its weights in other files")


def test_operators_that_no_export_has_are_refused(path: Path, tmp_path: Path) -> None:
    model = parsed(path)
    next(p for p in model.primitives if p.op_type == "Sigmoid").op_type = "PyExecute"
    refused(signed(model, tmp_path / "m.mindir"), r"no export of this package has \(PyExecute\)")
    model = parsed(path)
    model.graph.node[20].op_type = "PyExecute"
    refused(signed(model, tmp_path / "m.mindir"), r"no export of this package has \(PyExecute\)")
    model = parsed(path)
    model.functions.add(name="more")
    refused(signed(model, tmp_path / "m.mindir"), r"has \(function more\)")


def test_a_weight_of_another_shape_is_refused(path: Path, tmp_path: Path) -> None:
    model = parsed(path)
    tensor = next(t for t in model.graph.parameter if t.name.endswith("fc.bias"))
    tensor.dims[0] = 1 << 40
    refused(signed(model, tmp_path / "m.mindir"), "fc.bias")


@pytest.mark.parametrize("what", ["no operand", "unknown operand", "no attribute"])
def test_an_incomplete_graph_is_refused(
    path: Path, tmp_path: Path, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """MindSpore's own parser would end the process, or fail at the first prediction.

    What it prints about the graph is kept from the user.
    """
    model = parsed(path)
    node = next(n for n in model.graph.node if "BiasAdd" in n.op_type)
    if what == "no operand":
        del node.input[1:]
    elif what == "unknown operand":
        node.input[0] = "nothing"
    else:
        convolution = next(p for p in model.primitives if p.op_type == "Conv2D")
        convolution.ClearField("attribute")
    refused(signed(model, tmp_path / "m.mindir"), "lacks operands|no usable MindIR")
    assert capfd.readouterr() == ("", "")
