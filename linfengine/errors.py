"""The one exception meant for the person at the keyboard."""


class UserError(ValueError):
    """A file, recipe, model or data set cannot be used; the message is one sentence saying what was expected and found.

    The command line prints that sentence and exits with status 2. Misuse of the Python interface raises the ordinary
    ValueError, TypeError or RuntimeError instead.
    """
