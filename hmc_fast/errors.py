"""The one exception for bad input: the command line prints its sentence and exits with 2."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what was got and what to do."""
