"""Stand-ins for the programs of clusters: first on PATH, each writes down how it was called."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


class Cluster:
    """A folder of stand-ins and what they wrote down."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.bin, self.calls_file = folder, folder / "bin", folder / "calls.jsonl"
        self.bin.mkdir()
        self.environment = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "CLIPJAX_PAUSE": "0"}
        self.environment["CLUSTER"] = str(folder)

    def stand_in(self, name: str, body: str) -> pathlib.Path:
        """A program of that name: `words` are its arguments, `cluster` is the folder, `state` reads a file of it."""
        path = self.bin / name
        path.write_text(f"#!{sys.executable}\n{_HEAD}\n{body}")
        path.chmod(0o755)
        return path

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of each call of a stand-in."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [words for program, words in map(json.loads, lines) if program == name]

    def run(self, script: str, *arguments: str, **options) -> subprocess.CompletedProcess:
        """Run one of the scripts of launch/ to its end."""
        command = [str(ROOT / "launch" / script), *arguments]
        environment = self.environment | options.pop("env", {})
        return subprocess.run(command, env=environment, capture_output=True, text=True, **options)

    def start(self, script: str, *arguments: str) -> subprocess.Popen:
        """Start one of the scripts of launch/."""
        return subprocess.Popen([str(ROOT / "launch" / script), *arguments], env=self.environment)


_HEAD = """
import json, os, pathlib, subprocess, sys

words, cluster = sys.argv[1:], pathlib.Path(os.environ["CLUSTER"])
with (cluster / "calls.jsonl").open("a") as file:
    file.write(json.dumps([pathlib.Path(sys.argv[0]).name, words]) + "\\n")


def state(name, default):
    path = cluster / name
    return json.loads(path.read_text()) if path.exists() else default


def keep(name, value):
    (cluster / name).write_text(json.dumps(value))
"""


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)
