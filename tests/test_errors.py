"""User errors are ordinary exceptions that carry one line."""

from clipjax.errors import UserError


def test_a_user_error_is_its_line():
    assert str(UserError("data.train: no file")) == "data.train: no file"


def test_whatever_it_quotes_it_stays_one_printable_line():
    line = str(UserError("x.json: key 'two\nlines\r\x1b[2J\u2028\ud800' – é 日"))
    assert line == "x.json: key 'two lines  [2J  ' – é 日"
    assert line.encode() and len(line.splitlines()) == 1
