"""Class names, compared in Unicode's composed form (NFC), in which file systems differ."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterable, Sequence

from ...errors import UserError

_log = logging.getLogger(__name__)


def composed(name: str) -> str:
    """Return the name in NFC: "é" is one character there, and two in names made on a Mac."""
    return unicodedata.normalize("NFC", name)


def match(found: Iterable[str], known: Sequence[str] | None, where: str) -> dict[str, str]:
    """Return class name -> name among the `found` ones, for all of these, in order of the classes.

    Without `known` names the classes are the found ones, sorted. Raises UserError for two names
    that differ in their Unicode form only, and for one that is no known class. Numbers from 0 are
    positions of the known classes, where none of these is a number.
    """
    forms: dict[str, str] = {}
    for name in sorted(found):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{where}: class name {os.fsencode(name)!r} is not UTF-8; rename it"
            ) from None
        other = forms.setdefault(composed(name), name)
        if other != name:
            raise UserError(
                f"{where}: two class names look alike, {other!a} and {name!a}: they are "
                "the same text in two Unicode forms; put their images into one"
            )
    if known is None:
        return {name: name for name in sorted(forms.values())}
    unknown = sorted(set(forms) - {composed(name) for name in known})
    if unknown and _are_numbers(forms, known):
        _log.warning("%s: the class folders are numbers, taken as positions of the classes", where)
        return {known[int(name)]: name for name in sorted(forms, key=int)}
    if unknown:
        like = {name.casefold(): name for name in known}
        alike = [f"{n} is spelt {like[n.casefold()]}" for n in unknown if n.casefold() in like]
        raise UserError(
            f"{where}: class folders that are no known class: {some(unknown)}; the {len(known)} "
            f"known ones are {some(known)}. Rename or remove those folders, or train with them"
            + (f" ({some(alike)} there)" if alike else "")
        )
    return {name: forms[composed(name)] for name in known if composed(name) in forms}


def _are_numbers(found: Iterable[str], known: Sequence[str]) -> bool:
    """Whether all names count classes from 0, as the folders of ImageNet-V2 do, and no class has
    such a name."""
    numbers = {str(k) for k in range(len(known))}
    return numbers.issuperset(found) and numbers.isdisjoint(known)


def some(names: Sequence[str], most: int = 5) -> str:
    """Return the first few names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
