"""User errors are ordinary exceptions that carry one line."""

from clipjax.errors import UserError


def test_a_user_error_is_its_line():
    assert str(UserError("data.train: no file")) == "data.train: no file"
