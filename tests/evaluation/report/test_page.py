"""The page: complete, self-contained, and safe with whatever the user's data says."""

import html.parser
import re

import pytest

from clipjax.evaluation.report.page import _count, page, percent
from clipjax.evaluation.report.record import record

LINES = [{"step": step, "loss": 5 / step, "learning_rate": 1e-3} for step in range(1, 50)]


class Reader(html.parser.HTMLParser):
    """Collects links, sources, headings and pictures, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.images, self.headings = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("src", "href", "xlink:href") if name in attributes]
        if tag == "img":
            self.images.append(attributes)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "img", "br", "link"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def text(bundle, classified, retrieved):
    scored = [classified, retrieved]
    return page(record(bundle, scored, created="2026-03-04T05:06:07+00:00"), scored, LINES)


def test_nothing_comes_from_outside(text):
    assert "http" not in text and "@import" not in text and "<script" not in text
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in Reader(text).links)


def test_tags_close_pictures_have_words_and_headings_do_not_skip(text):
    reader = Reader(text)
    assert reader.open == []
    assert reader.images and all(image.get("alt") for image in reader.images)
    assert reader.headings[0] == 1 and reader.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(reader.headings, reader.headings[1:], strict=False))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_every_number_stands_with_its_interval(text, bundle, classified, retrieved):
    for part in (classified, retrieved):
        for result in part.results:
            row = re.search(rf"<tr>(?:(?!</tr>).)*<code>{result.metric}</code>.*?</tr>", text, re.DOTALL)[0]
            assert f">{percent(result.value)}<" in row
            assert f">{percent(result.low)} to {percent(result.high)}<" in row


def test_the_page_says_how_it_was_measured(text):
    for words in (
        "a photo of a {c}.",
        "Prompts from the data",
        "no prefix",
        "Clopper-Pearson",
        "Equal scores",
        "bicubic",
    ):
        assert words in text
    assert "4 March 2026, 05:06 UTC" in text and "Loss" in text and "Logit scale" not in text


def test_default_prompts_are_told(bundle, classified):
    object.__setattr__(classified.dataset, "default_templates", True)
    assert "so the default is used" in page(
        record(bundle, [classified], created="2026-03-04T05:06:07"), [classified], []
    )


def test_words_of_the_users_are_never_markup(bundle, classified, retrieved):
    bundle.name = classified.dataset.class_names[2] = retrieved.embeddings.captions[0] = "<script>alert(1)</script>"
    classified.results[0].per_class[2]["class"] = bundle.name
    scored = [classified, retrieved]
    text = page(record(bundle, scored, created="2026-03-04T05:06:07"), scored, [])
    assert "<script" not in text and "&lt;script&gt;" in text


def test_weights_without_a_step_leave_it_out(bundle, classified):
    bundle.step = None
    assert "Training step" not in page(record(bundle, [classified], created="2026-03-04T05:06:07"), [classified], [])


def test_numbers_are_short():
    assert [percent(share) for share in (0, 0.00123, 0.0523, 0.5, 1)] == ["0.00", "0.12", "5.2", "50.0", "100.0"]
    numbers = (999, 12_345, 151_277_313, 12_800_000_000)
    assert [_count(n) for n in numbers] == ["999", "12.3 thousand", "151.3 million", "12.8 billion"]
