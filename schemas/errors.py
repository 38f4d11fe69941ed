"""A user's mistake, as one line."""


class UserError(ValueError):
    """Wrong input, setting or argument: names the value and the remedy; the command ends with code 2."""
