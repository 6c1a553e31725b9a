"""The documents agree with the code: models, commands, links, signatures; the Python runs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import seresnext
from seresnext import flags
from seresnext.cli import VERBS
from seresnext.cli.train import arguments as train_arguments
from seresnext.config import SHORT_NAMES, Config
from seresnext.errors import UsageError
from seresnext.model.architecture import (
    MODEL_NAMES,
    architecture,
    count_macs,
    count_parameters,
)
from seresnext.model.init import init_weights
from seresnext.tensors import save_safetensors

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README_CN.md")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = (*READMES, "CONTRIBUTING.md", *PAGES)


def blocks(document: str, language: str) -> list[str]:
    """The fenced code blocks of a document."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[list[str]]:
    """The arguments of every `seresnext` command in a document's shell blocks."""
    found = []
    for block in blocks(document, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "seresnext" in words:
                found.append(words[words.index("seresnext") + 1 :])
    return found


def parse(verb: str, *arguments: str) -> None:
    """Parse a verb's arguments without running it; UsageError for an unknown flag."""
    if verb == "train":
        train_arguments(list(arguments))
        return
    module = importlib.import_module(f"seresnext.cli.{verb.replace('-', '_')}")
    words = verb.split("-")
    if verb in ("bench", "data"):  # these have a second word
        words.append(arguments[0])
        arguments = arguments[1:]
    options = getattr(module, f"{''.join(word.title() for word in words)}Args")
    flags.parse(options, arguments, verb)


@pytest.mark.parametrize("document", READMES)
def test_the_table_of_models_is_the_codes(document: str) -> None:
    rows = re.findall(
        r"^\| `(seresnext\w+)` \| ([\d.]+) \| ([\d.]+) \|$",
        (ROOT / document).read_text(),
        re.MULTILINE,
    )
    expected = {}
    for name in MODEL_NAMES:
        arch = architecture(name)
        expected[name] = (f"{count_parameters(arch) / 1e6:.2f}", f"{count_macs(arch) / 1e9:.2f}")
    assert {name: tuple(figures) for name, *figures in rows} == expected


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_parses(document: str) -> None:
    for verb, *arguments in commands(document):
        assert verb in VERBS, verb
        try:
            parse(verb, *arguments)
        except UsageError as error:
            pytest.fail(f"seresnext {verb} {shlex.join(arguments)}: {error}")
    if document in READMES:
        verbs = {verb for verb, *_ in commands(document)}
        assert {"train", "evaluate", "predict", "export", "bench"} <= verbs


def test_an_unknown_flag_does_not_parse() -> None:
    with pytest.raises(UsageError, match="--best"):
        parse("predict", "runs/mine", "cat.jpg", "--best", "3")


@pytest.mark.parametrize("language", ["sh", "python"])
def test_both_languages_show_the_same_code(language: str) -> None:
    def without_comments(document: str) -> list[list[str]]:
        lines = "".join(blocks(document, language)).splitlines()
        return [re.sub(r"\s+# .*", "", line).split() for line in lines]

    assert without_comments("README_CN.md") == without_comments("README.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text)
    for target in (link or image for link, image in targets):
        if "://" not in target:
            assert (ROOT / document).parent.joinpath(target).exists(), target


def test_the_api_page_names_what_is_public() -> None:
    page = (ROOT / "docs/api.md").read_text()
    names = {*seresnext.__all__, *SHORT_NAMES, *(f.name for f in dataclasses.fields(Config))}
    assert {
        n for n in names - {"__version__", "recipe"} if not re.search(rf"\b{n}\b", page)
    } == set()


@pytest.mark.parametrize("name", ["load", "train", "export", "convert"])
def test_the_api_page_has_the_signatures(name: str) -> None:
    page = " ".join((ROOT / "docs/api.md").read_text().split())
    parameters = inspect.signature(getattr(seresnext, name)).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    written = str(inspect.Signature(plain)).replace("'", '"')
    assert f"`seresnext.{name}{written}" in page


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As it is printed, with a small network and images in place of real ones."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path)
    small = seresnext.recipe("demo").replace(
        batch_size=4, model={"layers": (1, 1, 1, 1), "cardinality": 2}, engine={"threads": 1}
    )
    weights = init_weights(small.model.architecture(1000), 0)
    save_safetensors(tmp_path / "timm.safetensors", weights, {"format": "pt"})
    monkeypatch.setattr(seresnext, "recipe", lambda name: small)
    source, _, alone = blocks("README.md", "python")
    exec(compile(source, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "starting from timm.safetensors (timm layout, seresnext50_32x4d)" in printed
    assert (tmp_path / "mine.onnx").is_file()
    assert re.search(r"^(cat|dog) [\d.]+%, (cat|dog) [\d.]+%$", printed, re.MULTILINE)
    assert "Prediction(file='dog.png'" in printed.splitlines()[-1]
    space: dict[str, Any] = {}
    exec(compile(alone, "README.md", "exec"), space)
    with seresnext.load("mine.onnx") as model:
        expected = model.predict("cat.jpg", top=1)
    assert capsys.readouterr().out == f"{expected.classes[0]}\n"
    exponents = np.exp(space["logits"] - space["logits"].max())
    assert abs(exponents.max() / exponents.sum() - expected.probabilities[0]) < 1e-5


def write_photos(folder: Path) -> None:
    """Reddish cats and bluish dogs."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for channel, name in ((0, "cat"), (2, "dog")):
            (folder / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (36, 36, 3), np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{i}.png")
    Image.open(folder / "photos/val/cat/0.png").save(folder / "cat.jpg")
    Image.open(folder / "photos/val/dog/0.png").save(folder / "dog.png")
