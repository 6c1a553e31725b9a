"""The OpenAPI description of the server's paths."""

from __future__ import annotations

from typing import Any

from .. import __version__
from . import protocol

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"const": "1"}}
_LENGTH = {
    "name": protocol.LENGTH_HEADER,
    "in": "header",
    "description": "Bytes of JSON at the start of the body, where binary tensors follow it.",
    "schema": {"type": "integer"},
}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    },
    "InferenceRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"enum": list(protocol.OUTPUTS)}},
                },
            },
        },
    },
    "InferenceAnswer": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Tensor": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": _INTEGERS,
            "data": {"type": "array", "description": "Flat or nested."},
            "parameters": {"type": "object"},
        },
    },
    "Model": {
        "type": "object",
        "required": ["name", "versions", "inputs", "outputs"],
        "properties": {
            "name": {"type": "string"},
            "versions": _TEXTS,
            "platform": {"type": "string"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "parameters": {"type": "object", "properties": {"class_names": _TEXTS}},
        },
    },
    "Predictions": {
        "type": "object",
        "required": ["model", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string"},
                        "top": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "class": {"type": "string"},
                                    "probability": {"type": "number"},
                                },
                            },
                        },
                        "cam": {
                            "type": "object",
                            "properties": {
                                "class": {"type": "string"},
                                "map": {"type": "array"},
                                "picture": {"type": "string", "format": "uri"},
                            },
                        },
                        "error": {"type": "string"},
                    },
                },
            },
        },
    },
}


def description() -> dict[str, Any]:
    """Return the description, OpenAPI 3.1."""
    model = "/v2/models/{name}"
    paths: dict[str, Any] = {
        "/": _get("A page for browsers", "text/html"),
        "/v2": _get("The server's name, version, extensions and models"),
        "/v2/health/live": _get("Whether the process works"),
        "/v2/health/ready": _get("Whether requests are taken; 503 while the server shuts down"),
        "/predict": {"post": _predict()},
        "/metrics": _get("Counters, in Prometheus' text format", "text/plain"),
        "/openapi.json": _get("This description"),
    }
    for path, parameters in (
        (model, [_NAME]),
        (f"{model}/versions/{{version}}", [_NAME, _VERSION]),
    ):
        given = {"parameters": parameters}
        paths[path] = _get("Inputs, outputs and class names of a model", schema="Model") | given
        paths[f"{path}/ready"] = _get("Whether the model takes requests") | given
        paths[f"{path}/infer"] = {"post": _infer(), **given}
    return {
        "openapi": "3.1.0",
        "info": {"title": "seresnext serve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _get(what: str, media_type: str = "application/json", schema: str = "") -> dict[str, Any]:
    return {"get": {"summary": what, "responses": _answers(media_type, schema)}}


def _answers(media_type: str, schema: str) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}} if schema else {}
    return {
        "200": {"description": "OK", "content": {media_type: content}},
        "default": {"description": "An error", "content": error},
    }


def _infer() -> dict[str, Any]:
    schema = {"schema": {"$ref": "#/components/schemas/InferenceRequest"}}
    return {
        "summary": "Logits and probabilities of images (Open Inference Protocol)",
        "parameters": [_LENGTH],
        "requestBody": {
            "required": True,
            "content": {"application/json": schema, "application/octet-stream": {}},
        },
        "responses": _answers("application/json", "InferenceAnswer"),
    }


def _predict() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "The most probable classes of an image, or of several",
        "parameters": [
            {"name": "model", "in": "query", "schema": {"type": "string"}},
            {"name": "top", "in": "query", "schema": {"type": "integer", "default": 5}},
            {"name": "cam", "in": "query", "schema": {"type": "integer", "enum": [0, 1]}},
        ],
        "requestBody": {
            "required": True,
            "content": {"image/*": binary, "multipart/form-data": {}},
        },
        "responses": _answers("application/json", "Predictions"),
    }
