"""Fields of a protobuf message, encoded (https://protobuf.dev/programming-guides/encoding).

Checkpoints and MindIR files are protobuf messages. The few fields that this package writes into
them need no generated classes.
"""

from __future__ import annotations


def varint(value: int) -> bytes:
    """Encode a non-negative integer, seven bits a byte, the lowest first."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def field(number: int, content: bytes) -> bytes:
    """Encode a string, bytes or message field."""
    return header(number, len(content)) + content


def header(number: int, length: int) -> bytes:
    """Encode what precedes a field's content of `length` bytes, for content written separately."""
    return varint(number << 3 | 2) + varint(length)
