"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """One line for a person: where, what was found, what was expected, what to do. The command line exits with 2."""

    def __str__(self) -> str:
        """The line. What is quoted from a file may hold anything: line ends and control characters become spaces."""
        return "".join(letter if letter.isprintable() else " " for letter in super().__str__())
