"""The encoder of protobuf fields, against protobuf itself."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.wrappers_pb2 import BytesValue, UInt64Value

from seresnext.protobuf import field, header, varint


@pytest.mark.parametrize("value", [1, 127, 128, 300, (1 << 32) + 5, (1 << 63) - 1])
def test_varint(value: int) -> None:
    assert b"\x08" + varint(value) == UInt64Value(value=value).SerializeToString()


def test_varint_of_zero() -> None:
    assert varint(0) == b"\0"


@pytest.mark.parametrize("length", [1, 127, 128, 70_000])
def test_field(length: int) -> None:
    content = bytes(length)
    assert field(1, content) == BytesValue(value=content).SerializeToString()
    assert field(1, content) == header(1, length) + content


def test_field_numbers_of_two_bytes() -> None:
    data = field(1, b"name") + field(99, b"unknown")
    message = FileDescriptorProto.FromString(data)
    assert message.name == "name"
    assert message.SerializeToString() == data
