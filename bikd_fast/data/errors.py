"""The one error of the data room."""

from bikd_fast.errors import UserError


class DataError(UserError, ValueError):
    """A picture, a mask or a data set that can't be used.

    The message names the file or folder, says what was found there and what to do about it."""
