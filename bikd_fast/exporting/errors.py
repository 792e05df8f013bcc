"""What can go wrong in an export."""

from bikd_fast.errors import UserError


class ExportError(UserError):
    """A format whose tools are missing, no pictures to check with, or a file that does not give the detector's scores."""
