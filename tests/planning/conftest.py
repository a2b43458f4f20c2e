"""A real program for TPUs as text, and small ones made by hand."""

import gzip
import pathlib

import pytest

from clipjax.planning import hlo


@pytest.fixture(scope="session")
def tpu_module():
    """The module of fixtures/make_v5e_4x4.py."""
    path = pathlib.Path(__file__).parent / "fixtures/v5e_4x4.hlo.gz"
    return hlo.parse(gzip.decompress(path.read_bytes()).decode())


@pytest.fixture
def module():
    """A function from the lines of an entry computation, and texts of others, to a module."""

    def make(*lines, others=""):
        body = "\n".join(f"  {line}" for line in lines)
        return hlo.parse(f"{others}\nENTRY %main (p: f32[8]) -> f32[8] {{\n{body}\n}}\n")

    return make


@pytest.fixture
def found():
    """What a candidate tells: a step that fits into a v5e:2x2, in round numbers."""
    return {
        "devices": 4,
        "devices_per_chip": 1,
        "judged": True,
        "sizes": {"data": 2, "fsdp": 2, "tensor": 1},
        "limit": 16 * 10**9,
        "state": 6 * 10**9,
        "moments": 4 * 10**9,
        "batch": 10**8,
        "gradients": 2 * 10**9,
        "kept": 2 * 10**9,
        "executed": 4e12,
        "executed_once": 4e11,
        "rates": {"flops": 1e12, "memory": 1e11, "link": 1e10, "slice": 1e9, "clock": 1e9, "source": "made up"},
        "versions": {"jax": "0.10.2"},
        "total": 12 * 10**9,
        "apart": 13 * 10**9,
        "arguments": 6 * 10**9,
        "aliased": 6 * 10**9,
        "host": 0,
        "counted": 1e11,
        "traffic": 2e11,
        "offloaded": 0,
        "cycles": 4 * 10**9,
        "collectives": [
            {"kind": "all-gather", "axis": "fsdp", "dtype": "bf16", "count": 6, "bytes": 10**9, "wire": 5e8},
            {"kind": "all-gather", "axis": "fsdp", "dtype": "f32", "count": 2, "bytes": 10**8, "wire": 5e7},
            {"kind": "all-reduce", "axis": "data", "dtype": "f32", "count": 3, "bytes": 10**8, "wire": 1e8},
        ],
        "network": 0.5,
    }


@pytest.fixture
def too_large(found):
    """The same where the compiler says that it does not fit."""
    told = (
        "total",
        "peak",
        "arguments",
        "aliased",
        "host",
        "counted",
        "traffic",
        "offloaded",
        "cycles",
        "collectives",
        "network",
    )
    return {name: value for name, value in found.items() if name not in told} | {"needed": 20 * 10**9}
