"""The gather: what it holds and sends. That its values are right is asserted in test_contrastive.py."""


def test_the_gather_holds_less_than_200_mib_a_device_for_32768_pairs(compiled_loss):
    assert compiled_loss("gather", 32768).memory_analysis().temp_size_in_bytes <= 200 * 2**20


def test_the_gather_sends_nothing_from_device_to_device_in_turn(compiled_loss):
    text = compiled_loss("gather", 64).as_text()
    assert "all-gather" in text and "reduce-scatter" in text
    assert "collective-permute" not in text and "all-to-all" not in text
