"""Stages of the network by name, and the depth of a parameter in it."""

from __future__ import annotations

from .architecture import Architecture

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
"""Input to output; the classifier, `fc`, comes after them."""


def stage_of(name: str) -> str:
    """Return the stage of a parameter, or `fc`, by its canonical name."""
    first = name.partition(".")[0]
    return first if first in (*STAGES, "fc") else "stem"


def stages_between(text: str) -> tuple[str, ...]:
    """Return the stages of `"stem..layer3"` (both ends included) or `"stem"`; of `""` none.

    Raises ValueError for any other text.
    """
    if not text:
        return ()
    first, dots, last = text.partition("..")
    last = last if dots else first
    if first not in STAGES or last not in STAGES or STAGES.index(first) > STAGES.index(last):
        raise ValueError(f'a range of stages such as "stem..layer3", of {", ".join(STAGES)}')
    return STAGES[STAGES.index(first) : STAGES.index(last) + 1]


def depth_below_output(name: str, arch: Architecture) -> int:
    """Return how many layers a parameter is away from the classifier: `fc` 0, the last block 1,
    the stem the number of blocks plus 1."""
    stage = stage_of(name)
    blocks = [block.name for block in arch.blocks()]
    if stage in ("stem", "fc"):
        return len(blocks) + 1 if stage == "stem" else 0
    return len(blocks) - blocks.index(".".join(name.split(".")[:2]))
