"""Config files: read with typed overrides; what is wrong is said with the file and line, or the key."""

import pytest

from clipjax.config import as_json, resolve
from clipjax.config.files import read
from clipjax.errors import UserError

GOOD = """
from clipjax.config import default_config

def get_config():
    config = default_config()
    config.model.preset = "tiny"
    config.total_steps = 7
    config.optimizer.warmup_steps = 2
    return config
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def test_overrides_change_the_file(file):
    config = resolve(
        read(str(file), ["--config.batch_size=8", "--config.optimizer.learning_rate=1", "--config.data.train=a,b"])
    )
    assert (config.total_steps, config.batch_size, config.optimizer.learning_rate) == (7, 8, 1.0)
    assert config.data.train == ("a", "b")


def test_total_samples_can_take_the_place_of_total_steps(file):
    config = resolve(read(str(file), ["--config.total_steps=None", "--config.total_samples=2560"]))
    assert config.total_steps == 10


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.batchsize=8", "config.batchsize: no such key. Did you mean batch_size"),
        ("--config.model.image.width.x=8", "config.model.image.width.x: no such key"),
        ("--config.batch_size=eight", "config.batch_size=eight"),
        ("--config.batch_size", "--config.batch_size: has no value"),
        ("--config.model=8", "config.model: a section"),
        ("--config.data.horizontal_flip=perhaps", "config.data.horizontal_flip=perhaps"),
    ],
)
def test_a_wrong_override_names_its_key(file, override, said):
    with pytest.raises(UserError, match=said) as caught:
        read(str(file), [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:\n", "line 1"),
        (GOOD.replace("= 7", "= seven"), "line 7: NameError"),
        (GOOD.replace("= 7", "= 'seven'"), "line 7"),
        ("x = 1\n", "get_config"),
    ],
)
def test_a_broken_file_is_named_with_its_line(file, text, said):
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read(str(file))
    assert "mine.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match="nothing.py: no such file"):
        read("nothing.py")


def test_json_is_whole(file):
    assert '"preset": "tiny"' in as_json(resolve(read(str(file))))
