import pytest

from clipjax.data.inspect import inspect, survey
from clipjax.errors import UserError


@pytest.fixture
def mixed(tmp_path, picture, write_tar):
    files = {"0.jpg": picture(0, 20, 90), "0.txt": "a dog\n" + "dog " * 30, "1.png": picture(1, 40, 40, "PNG", "L")}
    files |= {"1.txt": "cat", "2.jpg": b"garbage", "2.txt": "x", "3.jpg": picture(3), "3.txt": " ", "4.jpg": ""}
    return write_tar(tmp_path / "a.tar", files)


def test_the_survey_counts_what_is_there(mixed, config_for):
    facts = survey(config_for(mixed, max_unreadable=0.9))
    assert (facts["records"], facts["left_out"], facts["looked_at"]) == (4, 1, 4)
    assert (facts["unreadable"], facts["empty_captions"]) == (0.25, 0.25)
    assert facts["captions_a_picture"] == [0, 1, 2]
    assert facts["caption_tokens"] == [3, 4, 32]
    assert facts["longer_than_16_tokens"] == pytest.approx(1 / 3)
    assert facts["short_side"] == [20, 40, 40] and facts["smaller_than_32_pixels"] == pytest.approx(1 / 3)
    assert facts["modes"] == {"RGB": 2, "L": 1}
    assert len(facts["examples"]) == 3


def test_the_lines_name_what_is_wrong(mixed, config_for):
    text = inspect(config_for(mixed, max_unreadable=0.9))
    assert "unreadable             25.00%" in text
    assert "a.tar/4: no caption beside .jpg" in text and "a.tar/2: no picture in a known format" in text


def test_a_source_that_cannot_be_read_at_all_still_gives_a_survey(tmp_path, write_tar, config_for):
    path = write_tar(tmp_path / "a.tar", {"0.jpg": b"garbage", "0.txt": "x"})
    facts = survey(config_for(path))
    assert facts["unreadable"] == 1 and facts["short_side"] == []
    assert "100.00%" in inspect(config_for(path))


def test_only_a_sample_is_looked_at(shards, config_for):
    assert survey(config_for(shards), sample=4)["looked_at"] == 4


def test_no_source_is_the_users_mistake(config_for):
    with pytest.raises(UserError, match="no source is given"):
        survey(config_for())
