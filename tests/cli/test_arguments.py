"""The argument lists: what is required, and complaints as one line."""

import pytest

from clipjax.cli import arguments
from clipjax.errors import UserError


@pytest.mark.parametrize(
    ("add", "missing"),
    [
        (arguments.config_arguments, "--config"),
        (arguments.evaluate_arguments, "--checkpoint, --data, --out"),
        (arguments.interpolate_arguments, "ZERO, FINE"),
        (arguments.embed_arguments, "--checkpoint, --data, --out"),
        (arguments.search_arguments, "--embeddings, --checkpoint, --out"),
        (arguments.plan_arguments, "--config, --topology"),
    ],
)
def test_what_is_required_is_said_in_a_line(add, missing):
    parser = arguments.Parser(prog="clipjax")
    add(parser)
    with pytest.raises(UserError, match=f"required: {missing}. See clipjax --help"):
        parser.parse_args([])
