"""Examples on the page: which are taken, and that what they say is so."""

import numpy as np

from clipjax.evaluation.report import examples
from clipjax.evaluation.report.pictures import Thumbnails


def test_captions_show_what_they_find_and_frame_their_own(retrieved):
    queries = examples.caption_queries(retrieved, Thumbnails())
    scores = retrieved.embeddings.texts @ retrieved.embeddings.images.T
    assert {query["place"] == 1 for query in queries} == {True, False}
    for query in queries:
        row = retrieved.embeddings.captions.index(query["query"])
        order = np.argsort(-scores[row], kind="stable")
        place = int(np.flatnonzero(order == retrieved.embeddings.owner[row])[0]) + 1
        assert query["place"] == place
        own = [number for number, picture in enumerate(query["pictures"], 1) if picture["own"]]
        assert own == [place if place <= 5 else 6]
        assert len(query["pictures"]) == (5 if place <= 5 else 6)


def test_pictures_show_captions_and_tell_their_own_where_none_is_found(retrieved):
    queries = examples.picture_queries(retrieved, Thumbnails())
    assert queries and all(any(c["own"] for c in query["captions"]) != bool(query["right"]) for query in queries)


def test_classes_show_their_nearest_pictures(classified):
    queries = examples.class_queries(classified, Thumbnails(), each=1)
    assert [query["query"] for query in queries] == ["red", "blue"]  # first of the best, and the worst
    assert [picture["own"] for picture in queries[0]["pictures"]][:3] == [True] * 3
    assert queries[0]["pictures"][0]["alt"] == "red"


def test_the_mistake_is_shown_on_the_picture_it_is_made_on(classified):
    (row,) = examples.mistakes(classified, Thumbnails())
    assert (row["true"], row["taken"], row["times"], row["n"]) == ("blue", "red", 1, 3)
    uri = Thumbnails()("the ninth", classified.dataset.samples[8].read)
    assert row["pictures"] == [{"uri": uri, "alt": "blue", "own": False}]


def test_examples_stand_at_even_distances():
    chosen = np.zeros(100, bool)
    assert examples._even(chosen, 4) == []
    chosen[[7, 50]] = True
    assert examples._even(chosen, 4) == [7, 50]
    assert examples._even(np.ones(100, bool), 4) == [0, 33, 66, 99]
    assert examples._even(np.ones(100, bool), 1) == [0]
