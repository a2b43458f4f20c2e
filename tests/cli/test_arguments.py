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


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_a_batch_of_no_picture_is_refused(value):
    parser = arguments.Parser(prog="clipjax")
    arguments.evaluate_arguments(parser)
    with pytest.raises(UserError, match=f"--batch-size: '{value}' should be a whole number of at least 1"):
        parser.parse_args(["--checkpoint=C", "--data=D", "--out=O", f"--batch-size={value}"])
