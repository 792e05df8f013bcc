"""The one base of errors that a user can mend: shown as a single line, never as a traceback."""


class UserError(Exception):
    """Names the file or the key, what was found, and what to do."""
