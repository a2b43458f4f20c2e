"""The documents: their commands parse, their links lead somewhere, their file table is that of the code.

After adding a file: `python tests/docs/test_docs.py` writes the table of docs/architecture.md anew.
"""

import ast
import pathlib
import re
import shlex

import pytest

from clipjax import cli

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
ARCHITECTURE = ROOT / "docs/architecture.md"
HEAD = "| file | what it is for |\n|---|---|\n"


def commands():
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if (words := shlex.split(line, comments=True)) and words[0] == "clipjax":
                    yield pytest.param(words[1:], id=f"{page.name}: {' '.join(words)[:60]}")


@pytest.mark.parametrize("words", commands())
def test_every_command_of_the_documents_parses(words):
    args, rest = cli._parser().parse_known_args(words)
    assert callable(args.function)
    assert all(word.startswith("--config.") for word in rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def table():
    rows = []
    for path in sorted((ROOT / "clipjax").rglob("*.py")):
        first = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
        rows.append(f"| `{path.relative_to(ROOT / 'clipjax')}` | {first} |")
    return HEAD + "\n".join(rows) + "\n"


def test_the_file_table_is_that_of_the_code():
    assert ARCHITECTURE.read_text().endswith(table())


if __name__ == "__main__":
    text = ARCHITECTURE.read_text()
    ARCHITECTURE.write_text(text[: text.index(HEAD)] + table())
