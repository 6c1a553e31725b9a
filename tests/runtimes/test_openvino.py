"""OpenVINO: the contract, and the format's own rules."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import openvino as ov
import pytest

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
from seresnext.exporters import openvino as openvino_export
from seresnext.runtimes.base import create_runtime
from seresnext.runtimes.normalise import normalise


class TestContract(RuntimeContract):
    kind = "openvino"


def write(path: Path, seed: int = 0) -> Path:
    described = artifact(tiny_spec())
    weights = random_weights(tiny_spec(), seed)
    openvino_export.write(openvino_export.build(described, weights), described, path)
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("openvino") / "model.xml")


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original.parent, tmp_path / "copy")) / "model.xml"


def test_the_files_need_no_package_of_ours(path: Path) -> None:
    """Read by OpenVINO alone, with a free batch size."""
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert compiled.input("pixel_values").partial_shape == ov.PartialShape([-1, 3, 32, 32])
    assert compiled.output("logits").partial_shape == ov.PartialShape([-1, 5])
    images = normalise(random_images(9, 32), tiny_spec().input)
    answer = compiled({"pixel_values": images})["logits"]
    assert difference(answer, engine_logits(tiny_spec())) < 1e-5


def test_fp32_stays_fp32(path: Path) -> None:
    """OpenVINO would compute in bfloat16 by itself where the CPU has it."""
    runtime = create_runtime(path)
    compiled = runtime._single.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32


def test_threads(path: Path) -> None:
    runtime = create_runtime(path, threads=1)
    assert runtime.device == "cpu (1 thread)"
    assert runtime._single.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


def test_weights_of_another_export_are_refused(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.xml", seed=1)
    shutil.copy(other.with_suffix(".bin"), path.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"belongs to another export than model\.xml"):
        create_runtime(path)


def test_one_flipped_bit_is_refused(path: Path) -> None:
    weights = path.with_suffix(".bin")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.bin is damaged"):
        create_runtime(path)


def test_missing_and_truncated_weights_are_refused(path: Path) -> None:
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model\.bin is damaged"):
        create_runtime(path)
    weights.unlink()
    with pytest.raises(UserError, match=r"cannot read model .*model\.bin"):
        create_runtime(path)
    weights.mkdir()
    with pytest.raises(UserError, match=r"cannot read model .*model\.bin"):
        create_runtime(path)


def test_the_weights_file_alone_is_no_model(path: Path) -> None:
    with pytest.raises(UserError, match=r"is opened by its \.xml"):
        create_runtime(path.with_suffix(".bin"))


def test_expanding_entities_are_refused(path: Path) -> None:
    bomb = '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    path.write_text(path.read_text().replace("<net", f"{bomb}<net", 1))
    with pytest.raises(UserError, match="document type"):
        create_runtime(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-7", "latin-1", "x-none"])
def test_other_encodings_than_utf_8_are_refused(path: Path, encoding: str) -> None:
    text = re.sub(r"^<\?xml.*?\?>", "", path.read_text())
    declared = f'<?xml version="1.0" encoding="{encoding}"?>{text}'
    data = declared.encode("ascii" if encoding == "x-none" else encoding, "replace")
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is not in UTF-8|is no model"):
        create_runtime(path)


def test_a_huge_padding_is_refused(path: Path) -> None:
    text = path.read_text()
    assert 'pads_begin="3, 3"' in text or 'pads_begin="3,3"' in text
    path.write_text(re.sub('pads_begin="3, ?3"', 'pads_begin="30000,30000"', text))
    with pytest.raises(UserError, match="a kernel, stride or padding of 30000"):
        create_runtime(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('offset="0"', 'offset="99999999999"'),
        ('type="Convolution"', 'type="NoSuchLayer"'),
        ('from-layer="0"', 'from-layer="7777"'),
        ('version="opset1"', 'version="opset99"'),
        ('element_type="f32"', 'element_type="f99"'),
    ],
)
def test_a_corrupt_description_is_refused(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        create_runtime(path)
    assert "\n" not in str(caught.value)
