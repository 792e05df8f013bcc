"""The students by the names they have in ``model.student``."""

from __future__ import annotations

from collections.abc import Callable

from bikd_fast.models.dual import DualStudent
from bikd_fast.models.inpainting import InpaintingStudent
from bikd_fast.models.memory import Memory
from bikd_fast.models.plain_students import EncoderStudent, ImageStudent, ReverseStudent, Student
from bikd_fast.models.relation import RelationStudent

__all__ = ["STUDENTS", "Memory", "Student"]

STUDENTS: dict[str, Callable[..., Student]] = {
    "image": ImageStudent,
    "reverse": ReverseStudent,
    "encoder": EncoderStudent,
    "dual": DualStudent,
    "relation": RelationStudent,
    "inpainting": InpaintingStudent,
    "bank": Memory,
}
