"""What every runtime must do, as one template: subclass it per runtime and name its format.

The expected logits are the torch engine's; the tolerance is that of the comparison after an export.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from runtimes.networks import (
    CLASSES,
    artifact,
    difference,
    engine_logits,
    engine_maps,
    random_images,
    random_weights,
    tiny_spec,
)
from seresnext.errors import UserError
from seresnext.exporters.base import load_exporter
from seresnext.exporters.comparison import TOLERANCES
from seresnext.model.spec import ModelSpec
from seresnext.report.maps import maps_of
from seresnext.runtimes.artifact import Artifact
from seresnext.runtimes.base import Runtime, create_runtime
from seresnext.runtimes.formats import FORMATS, ArtifactPrecision, Format

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "odd side": {"image_size": 45},
    "the original's": {
        **{"max_pool": "same", "image_size": 36},
        **{"classifier_bias": False, "se_bias": False},
    },
    "same pooling, odd": {"max_pool": "same", "image_size": 34},
    "deep, average": {"stem": "deep", "downsample": "avg", "image_size": 46},
    "wide groups": {"cardinality": 4, "base_width": 32, "layers": (2, 1, 1, 1)},
}


class RuntimeContract:
    """Inherit and set `kind`, the name of the format."""

    kind: ClassVar[str]
    format: ClassVar[Format]
    _written: ClassVar[dict[str, Path]]

    def __init_subclass__(cls) -> None:
        cls.format = FORMATS[cls.kind]
        cls._written = {}

    def write(self, described: Artifact, weights: dict[str, np.ndarray], path: Path) -> None:
        exporter = load_exporter(self.format)
        exporter.write(exporter.build(described, weights), described, path)

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._new = lambda: tmp_path_factory.mktemp(self.kind) / f"model{self.format.suffix}"

    def artifact(self, spec: ModelSpec, **fields: Any) -> Path:
        """The file for a network of `random_weights`, written once; not to be changed."""
        described = artifact(spec, **fields)
        key = described.to_json()
        if key not in self._written:
            path = self._new()
            self.write(described, random_weights(spec), path)
            self._written[key] = path
        return self._written[key]

    def copy(self, path: Path) -> Path:
        """The same files in a folder of their own, to be damaged."""
        return Path(shutil.copytree(path.parent, self._new().parent / "copy")) / path.name

    # Logits ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
    def test_it_predicts_as_the_engine_does(self, network: dict[str, Any]) -> None:
        spec = tiny_spec(**network)
        runtime = create_runtime(self.artifact(spec))
        images = random_images(9, spec.input.image_size)
        limit = TOLERANCES["fp32"].relative / 10
        assert difference(runtime.predict(images), engine_logits(spec)) < limit
        assert difference(runtime.predict(images[:1]), engine_logits(spec)[:1]) < limit

    def test_a_difference_would_be_seen(self) -> None:
        spec, path = tiny_spec(), self._new()
        weights = random_weights(spec)
        weights["layer3.0.conv2.weight"][5, 1, 1, 1] += 1
        self.write(artifact(spec), weights, path)
        logits = create_runtime(path).predict(random_images(9, 32))
        assert difference(logits, engine_logits(spec)) > TOLERANCES["fp32"].relative

    @pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9])
    def test_any_number_of_images(self, count: int) -> None:
        runtime = create_runtime(self.artifact(tiny_spec()), threads=1)
        logits = runtime.predict(random_images(9, 32)[9 - count :])
        assert logits.shape == (count, len(CLASSES))
        np.testing.assert_allclose(logits, engine_logits(tiny_spec())[9 - count :], atol=1e-5)

    def test_logits_are_not_overwritten_by_the_next_prediction(self) -> None:
        runtime = create_runtime(self.artifact(tiny_spec()))
        images = random_images(2, 32)
        first = runtime.predict(images[:1])
        kept = first.copy()
        runtime.predict(images[1:])
        np.testing.assert_array_equal(first, kept)

    def test_with_preprocessing(self) -> None:
        if not self.format.preprocessing:
            pytest.skip(f"{self.kind} takes normalised images only")
        runtime = create_runtime(self.artifact(tiny_spec(), with_preprocessing=True))
        logits = runtime.predict(random_images(9, 32))
        assert difference(logits, engine_logits(tiny_spec())) < 1e-5

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_class_activation_maps(self, precision: ArtifactPrecision) -> None:
        if not self.format.class_activation:
            pytest.skip(f"{self.kind} answers logits only")
        spec = tiny_spec(image_size=70)
        images = random_images(9, 70)
        path = self.artifact(spec, with_cam=True, precision=precision, with_preprocessing=True)
        runtime = create_runtime(path)
        maps = maps_of(runtime)
        assert maps
        logits, found = maps(images)
        assert found.shape == (9, len(CLASSES), 3, 3)
        expected = engine_maps(spec)
        limit = TOLERANCES[precision].relative / (10 if precision == "fp32" else 1)
        assert difference(found, expected) < limit
        assert difference(logits, runtime.predict(images)) < limit
        bias = random_weights(spec)["fc.bias"]
        assert difference(found.mean((2, 3)) + bias, logits) < limit

    def test_an_artifact_without_maps(self) -> None:
        assert maps_of(create_runtime(self.artifact(tiny_spec()))) is None

    def test_maps_that_the_file_does_not_hold(self) -> None:
        if not self.format.class_activation:
            pytest.skip(f"{self.kind} answers logits only")
        exporter, path, spec = load_exporter(self.format), self._new(), tiny_spec()
        network = exporter.build(artifact(spec), random_weights(spec))
        exporter.write(network, artifact(spec, with_cam=True), path)
        with pytest.raises(UserError, match="class_activation_maps"):
            create_runtime(path)

    @pytest.mark.parametrize("count", [0, 2, 3, 4])
    def test_a_fixed_batch_size_and_another_name(self, count: int) -> None:
        if not self.format.fixed_input:
            pytest.skip(f"{self.kind} takes any number of images only")
        path = self.artifact(tiny_spec(), batch_size=3, input_name="actual_input_1")
        logits = create_runtime(path).predict(random_images(9, 32)[9 - count :])
        np.testing.assert_allclose(logits, engine_logits(tiny_spec())[9 - count :], atol=1e-5)

    def test_half_precision(self) -> None:
        if "fp16" not in self.format.precisions:
            pytest.skip(f"{self.kind} is written in fp32 only")
        full, half = (self.artifact(tiny_spec(), precision=p) for p in ("fp32", "fp16"))
        error = difference(
            create_runtime(half).predict(random_images(9, 32)), engine_logits(tiny_spec())
        )
        assert 1e-6 < error < TOLERANCES["fp16"].relative
        sizes = [sum(f.stat().st_size for f in p.parent.iterdir()) for p in (half, full)]
        assert sizes[0] < 0.6 * sizes[1]

    # Description -----------------------------------------------------------------------------

    def test_it_describes_itself(self) -> None:
        spec = tiny_spec(max_pool="same", image_size=36)
        runtime = create_runtime(self.artifact(spec))
        assert isinstance(runtime, Runtime)
        assert runtime.spec == spec
        assert runtime.name == self.kind
        assert runtime.device.startswith("cpu")
        runtime.close()

    def test_it_is_recognised_by_its_content(self) -> None:
        path = self.copy(self.artifact(tiny_spec()))
        renamed = path.rename(path.with_suffix(".model"))
        assert create_runtime(renamed).name == self.kind

    def test_a_device_that_is_not_there(self) -> None:
        with pytest.raises(UserError, match=r"--device.*expected auto"):
            create_runtime(self.artifact(tiny_spec()), device="abacus")

    # Damage ----------------------------------------------------------------------------------

    def refused(self, path: Path, pattern: str | None = None) -> None:
        with pytest.raises(UserError, match=pattern) as caught:
            create_runtime(path).predict(random_images(1, 32))
        text = str(caught.value)
        assert "\n" not in text
        assert len(text) < 1000
        assert re.search(r"expected|export it again|refused|no usable|no valid|cannot", text), text

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_file_is_refused(self, share: float) -> None:
        path = self.copy(self.artifact(tiny_spec()))
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        self.refused(path)

    def test_garbage_is_refused(self) -> None:
        path = self.copy(self.artifact(tiny_spec()))
        data = path.read_bytes()
        noise = np.random.default_rng(0).bytes(len(data))
        path.write_bytes(data[:16] + noise)
        self.refused(path)
        path.write_bytes(noise)
        self.refused(path)

    def test_a_file_of_text_is_refused(self) -> None:
        path = self._new()
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
        self.refused(path, "is no model")

    def test_other_classes_than_the_network_has_are_refused(self) -> None:
        six = tiny_spec(classes=(*CLASSES, "sixth"))
        path = self._new()
        exporter = load_exporter(self.format)
        network = exporter.build(artifact(six), random_weights(six))
        exporter.write(network, artifact(tiny_spec()), path)
        self.refused(path)
