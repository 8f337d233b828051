"""Damage: checks of single copies, their repair, and whom it hits.

An administrator's `verify` asks the manager for its plan in pages (`wire.ops.admin.VerifyPlan`), an agent for
the state of each copy, and the manager for repair and for the files that are lost.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from staddle.engine.bounds import Id, Name, Number, RawPath
from staddle.wire.ops.admin import VerifyObject
from staddle.wire.ops.base import ADMINS, MANAGER, Nothing, Operation


class CheckMedium(msgspec.Struct, frozen=True, kw_only=True):
    """Check what stands on a medium beside the objects of backups: its label and its keyring."""

    medium: Name


class MediumProblem(msgspec.Struct, frozen=True, array_like=True):
    """Something that is wrong with a medium's label (`name` is empty) or its keyring."""

    name: str
    code: str
    message: str


class MediumChecked(msgspec.Struct, frozen=True):
    """What is wrong with them; nothing if all is well."""

    problems: list[MediumProblem]


LABEL_OBJECTS_MAX = 256


class ProveVolume(msgspec.Struct, frozen=True, kw_only=True):
    """Is the volume of this label at a medium's place, by the objects that it must hold.

    With `write` its label is written again if it is damaged or missing and an object proves that it is ours.
    """

    medium: Name
    label: Annotated[bytes, msgspec.Meta(max_length=4096)]
    objects: Annotated[list[VerifyObject], msgspec.Meta(max_length=LABEL_OBJECTS_MAX)]
    write: bool = False


class VolumeProved(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to `volume.prove`.

    Attributes:
        found: the label was `right`, `damaged`, `missing`, or a sound one of `another` volume.
        there: of the objects that were named, how many are there, where the label is damaged or missing.
        written: it was written again.
        problem: why it was not, or can't be.
    """

    found: str
    there: int = 0
    written: bool = False
    problem: str = ""


class RepairLabels(msgspec.Struct, frozen=True, kw_only=True):
    """Write damaged and lost labels again, where the objects of the medium prove that it is ours."""


class LabelRepaired(msgspec.Struct, frozen=True, array_like=True):
    """A label that was damaged or missing; `problem` says why it still is, empty if it was written again."""

    medium: str
    found: str
    problem: str = ""


class LabelsRepaired(msgspec.Struct, frozen=True):
    """Reply to `verify.labels`; nothing if there was nothing to do."""

    labels: list[LabelRepaired]


class CopyObject(msgspec.Struct, frozen=True, kw_only=True):
    """Read one copy of an object, check every byte, and store it on another place under this name."""

    source: VerifyObject
    medium: Name
    name: Name


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to `object.copy`: done, or with `code` and `problem` what is wrong with the source.

    An error of the target is the error of the request.
    """

    code: str = ""
    problem: str = ""


class FetchObject(msgspec.Struct, frozen=True, kw_only=True):
    """The checked bytes of one copy, sealed as they are, as payload: for an agent that can't reach it."""

    source: VerifyObject


class SalvageObject(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of one copy as they lie there, as payload, of the length that was stored: none is checked.

    Zeros stand for what is missing or can't be read.
    """

    source: VerifyObject


class BadPlacement(msgspec.Struct, frozen=True, array_like=True):
    """A copy that a check has found bad."""

    medium: Name
    name: Name
    code: Name


class RepairObject(msgspec.Struct, frozen=True, kw_only=True):
    """Count these copies of an object no longer, and make new ones, now. The grid's id: of the keyring."""

    id: Annotated[bytes, msgspec.Meta(max_length=16)]
    bad: Annotated[list[BadPlacement], msgspec.Meta(max_length=256)]


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """How a repair ended.

    Attributes:
        state: `whole` (all copies are there, the bad ones are gone or going), `waiting` (a good copy is
            there, the rest is done when it can be), `lost` (no good copy is left) or `gone` (the object is).
        message: why, for people.
    """

    state: str
    message: str = ""


class CheckTogether(msgspec.Struct, frozen=True, kw_only=True):
    """Are these damaged copies of an object, all that can be read, whole together. Changes nothing."""

    id: Id
    bad: Annotated[list[BadPlacement], msgspec.Meta(max_length=256)]


class Together(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to `verify.together`; `message` says why not."""

    whole: bool
    message: str = ""


class FilesLost(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a backup that need one of these containers or manifests, ascending, after a path."""

    backup: Number
    objects: Annotated[list[Id], msgspec.Meta(max_length=4096)]
    after: RawPath = b""
    limit: Number = 1000


class FilePage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of paths. `next` is what to ask for after it; empty at the end."""

    paths: list[bytes]
    next: bytes = b""


CHECK_MEDIUM = Operation("medium.check", CheckMedium, ADMINS, MediumChecked)
COPY_OBJECT = Operation("object.copy", CopyObject, MANAGER, Copied)
FETCH_OBJECT = Operation("object.fetch", FetchObject, MANAGER, Nothing)
SALVAGE_OBJECT = Operation("object.salvage", SalvageObject, MANAGER, Nothing)
PROVE_VOLUME = Operation("volume.prove", ProveVolume, MANAGER, VolumeProved)
REPAIR_LABELS = Operation("verify.labels", RepairLabels, ADMINS, LabelsRepaired)
CHECK_TOGETHER = Operation("verify.together", CheckTogether, ADMINS, Together)
REPAIR_OBJECT = Operation("verify.repair", RepairObject, ADMINS, Repaired)
FILES_LOST = Operation("verify.files", FilesLost, ADMINS, FilePage)
