"""The files of `deploy/`: their commands, paths and times are those of `seresnext serve`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from seresnext import flags
from seresnext.cli.serve import ServeArgs
from seresnext.serve.openapi import description

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")


def instruction(name: str) -> list[str]:
    """The words of an instruction of the Dockerfile."""
    (text,) = re.findall(rf"^{name} .*?(\[.+\])$", DOCKERFILE, re.MULTILINE)
    return list(json.loads(text))


def arguments(given: list[str]) -> ServeArgs:
    """What the image's command with these arguments says to the server."""
    entry = instruction("ENTRYPOINT")
    assert entry[:2] == ["seresnext", "serve"]
    return flags.parse(ServeArgs, [*entry[2:], *given], "seresnext serve")


@pytest.fixture
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


@pytest.fixture
def predictor() -> dict[str, Any]:
    """What KServe runs."""
    return dict(yaml.safe_load((DEPLOY / "kserve.yaml").read_text())["spec"]["predictor"])


def test_the_image() -> None:
    default = arguments(instruction("CMD"))
    assert default.host == "0.0.0.0"
    assert f"EXPOSE {default.port}" in DOCKERFILE
    assert re.search(r"^USER [1-9]\d+$", DOCKERFILE, re.MULTILINE)
    check = " ".join(instruction("HEALTHCHECK"))
    assert f"http://127.0.0.1:{default.port}/v2/health/ready" in check
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert ignored == ["*", "!dist/*.whl"]


def test_compose(compose: dict[str, Any]) -> None:
    service = compose["services"]["seresnext"]
    given = arguments(service["command"])
    (volume,) = service["volumes"]
    assert volume.endswith(f":{given.models[0]}:ro")
    assert given.token_file == Path("/run/secrets/token")
    assert service["secrets"] == list(compose["secrets"]) == ["token"]
    assert service["ports"] == [f"127.0.0.1:8000:{given.port}"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_kserve(predictor: dict[str, Any]) -> None:
    (container,) = predictor["containers"]
    given = arguments(container["args"])
    assert [port["containerPort"] for port in container["ports"]] == [given.port]
    for probe, path in (("readinessProbe", "ready"), ("livenessProbe", "live")):
        asked = container[probe]["httpGet"]
        assert asked == {"path": f"/v2/health/{path}", "port": given.port}
        assert asked["path"] in description()["paths"]


def test_time_to_answer_what_has_come(compose: dict[str, Any], predictor: dict[str, Any]) -> None:
    """Longer than what a request can take."""
    needed = ServeArgs.deadline + ServeArgs.client_deadline
    grace = compose["services"]["seresnext"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > needed
    assert predictor["terminationGracePeriodSeconds"] > needed
