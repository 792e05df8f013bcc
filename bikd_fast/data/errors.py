"""The one error of the data room."""


class DataError(ValueError):
    """A picture, a mask or a data set that can't be used.

    The message names the file or folder, says what was found there and what to do about it."""
