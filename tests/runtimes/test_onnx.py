"""ONNX: the contract, and the format's own rules."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

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
from seresnext.exporters import onnx as onnx_export
from seresnext.runtimes import onnx as runtime_file
from seresnext.runtimes.artifact import METADATA_KEY
from seresnext.runtimes.base import create_runtime
from seresnext.runtimes.normalise import normalise


class TestContract(RuntimeContract):
    kind = "onnx"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    described = artifact(tiny_spec())
    onnx_export.write(onnx_export.build(described, random_weights(tiny_spec())), described, path)
    return path


def changed(path: Path, out: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(path)
    change(model)
    out.write_bytes(model.SerializeToString())
    return out


def attribute(model: onnx.ModelProto, name: str) -> onnx.AttributeProto:
    """Of the second convolution."""
    node = [node for node in model.graph.node if node.op_type == "Conv"][1]
    return next(a for a in node.attribute if a.name == name)


def test_a_fixed_input_as_other_tools_see_it(tmp_path: Path) -> None:
    described = artifact(tiny_spec(), batch_size=2, input_name="images", with_preprocessing=True)
    network = onnx_export.build(described, random_weights(tiny_spec()))
    onnx_export.write(network, described, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    inputs, outputs = session.get_inputs()[0], session.get_outputs()[0]
    assert (inputs.name, inputs.shape) == ("images", [2, 32, 32, 3])
    assert (outputs.name, outputs.shape) == ("logits", [2, 5])


def test_the_file_needs_no_package_of_ours(path: Path) -> None:
    """Read by ONNX and ONNX Runtime alone."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "Identity", "Constant"}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (pixels,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (pixels.name, pixels.shape) == ("pixel_values", ["batch", 3, 32, 32])
    assert (logits.name, logits.shape) == ("logits", ["batch", 5])
    images = normalise(random_images(9, 32), tiny_spec().input)
    answer = session.run(None, {"pixel_values": images})[0]
    assert difference(answer, engine_logits(tiny_spec())) < 1e-5


def test_half_precision_reaches_every_convolution() -> None:
    model = onnx_export.build(artifact(tiny_spec(), precision="fp16"), random_weights(tiny_spec()))
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}


@pytest.mark.parametrize("location", ["weights.bin", "../outside", "/etc/hostname"])
def test_weights_in_other_files_are_refused(path: Path, tmp_path: Path, location: str) -> None:
    """Inside the folder too: artifacts are single files."""

    def move_out(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    with pytest.raises(UserError, match=r"keeps its weights in other files .*refused"):
        create_runtime(changed(path, tmp_path / "m.onnx", move_out))


@pytest.mark.parametrize("where", ["attribute", "sparse"])
def test_weights_in_other_files_are_found_in_every_kind_of_tensor(
    path: Path, tmp_path: Path, where: str
) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    tensor.external_data.add(key="location", value="/etc/passwd")

    def hide(model: onnx.ModelProto) -> None:
        if where == "attribute":
            model.graph.node[0].attribute.append(helper.make_attribute("value", tensor))
        else:
            model.graph.sparse_initializer.add().indices.CopyFrom(tensor)

    with pytest.raises(UserError, match=r"other files \(tensor 'hidden'\)"):
        create_runtime(changed(path, tmp_path / "m.onnx", hide))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: m.graph.node.add(op_type="Loop"), "Loop"),
        (lambda m: m.graph.node.add(op_type="Conv", domain="com.evil"), "com.evil:Conv"),
        (lambda m: m.functions.add(name="Conv"), "function Conv"),
    ],
)
def test_operators_that_no_export_has_are_refused(
    path: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], object], name: str
) -> None:
    with pytest.raises(UserError, match=rf"operators that no export of .*\({name}\); refused"):
        create_runtime(changed(path, tmp_path / "m.onnx", change))


def test_a_model_of_others_is_refused(path: Path, tmp_path: Path) -> None:
    unlabelled = changed(path, tmp_path / "m.onnx", lambda m: m.ClearField("metadata_props"))
    with pytest.raises(UserError, match="carries no metadata of this package"):
        create_runtime(unlabelled)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"spec": 3}',
        "[" * 100_000,
        artifact(tiny_spec()).to_json().replace('"image_size": 32', '"image_size": "32"'),
        artifact(tiny_spec()).to_json().replace('"image_size": 32', '"image_size": 999999999'),
        artifact(tiny_spec()).to_json().replace('"red", ', ""),
        artifact(tiny_spec()).to_json().replace('"fp32"', '"fp8"'),
        artifact(tiny_spec()).to_json().replace("0.2, 0.25", "0, 0.25"),
    ],
    ids=lambda text: text[:20],
)
def test_damaged_metadata_is_refused(path: Path, tmp_path: Path, text: str) -> None:
    def damage(model: onnx.ModelProto) -> None:
        helper.set_model_props(model, {METADATA_KEY: text})

    with pytest.raises(UserError, match=r"metadata is damaged"):
        create_runtime(changed(path, tmp_path / "m.onnx", damage))


def test_more_operators_than_the_network_has_are_refused(path: Path, tmp_path: Path) -> None:
    def repeat(model: onnx.ModelProto) -> None:
        relu = next(n for n in model.graph.node if n.op_type == "Relu")
        model.graph.node.extend([relu] * 300_000)

    with pytest.raises(UserError, match=r"operators, more than the network .* can have \(1000\)"):
        create_runtime(changed(path, tmp_path / "m.onnx", repeat))


def test_a_sparse_file_is_refused_unread(path: Path, tmp_path: Path) -> None:
    large = changed(path, tmp_path / "m.onnx", lambda m: None)
    os.truncate(large, 20 << 30)
    with pytest.raises(UserError, match="larger than any network of this family"):
        create_runtime(large)


def test_a_model_that_breaks_the_rules_is_refused(path: Path, tmp_path: Path) -> None:
    changes: list[Callable[[onnx.ModelProto], object]] = [
        lambda m: m.graph.node[0].input.append("nowhere"),
        lambda m: setattr(m.graph.node[3], "op_type", "Gemm"),
        lambda m: setattr(m.graph.output[0], "name", "other"),
        lambda m: m.graph.initializer[0].ClearField("raw_data"),
        lambda m: setattr(attribute(m, "group"), "i", 3),  # found when it is run
        lambda m: attribute(m, "pads").ints.__setitem__(1, 1 << 40),
        lambda m: attribute(m, "pads").ints.__setitem__(1, 20_000),
    ]
    for change in changes:
        with pytest.raises(UserError, match=r"m\.onnx is no (valid|usable) "):
            create_runtime(changed(path, tmp_path / "m.onnx", change))


def test_accelerators_are_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
        "CANNExecutionProvider",
    ]

    def names(device: str) -> tuple[str, list[str]]:
        kind, providers = runtime_file._choose(device)
        return kind, [p if isinstance(p, str) else p[0] for p in providers]

    def available() -> list[str]:
        return everything

    monkeypatch.setattr(onnxruntime, "get_available_providers", available)
    cpu = "CPUExecutionProvider"
    assert names("auto") == ("npu", ["CANNExecutionProvider", cpu])
    assert names("cuda:1") == ("cuda", ["CUDAExecutionProvider", cpu])
    assert runtime_file._choose("cuda:1")[1][0][1]["device_id"] == 1
    assert names("cpu") == ("cpu", [cpu])
    everything.remove("CANNExecutionProvider")
    assert names("auto")[0] == "cuda"
    with pytest.raises(UserError, match="no CANNExecutionProvider; use cpu, or install"):
        names("npu")
