"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """One line for a person: where, what was found, what was expected, what to do. The command line exits with 2."""
