"""Templates: escaped, and complete or an error."""

import jinja2
import pytest

from clipjax.evaluation.report.template import template


def test_what_is_filled_in_is_escaped(monkeypatch, tmp_path):
    from clipjax.evaluation.report import template as module

    (tmp_path / "a.html").write_text("{{ word | twice }}")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "template.py"))
    page = template("a.html", twice=lambda word: 2 * word)
    assert page.render(word="<b>") == "&lt;b&gt;&lt;b&gt;"
    with pytest.raises(jinja2.UndefinedError):
        page.render()
