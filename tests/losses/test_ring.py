"""The ring: what it holds and sends. That its values are right is asserted in test_contrastive.py."""


def test_the_ring_holds_less_than_100_mib_a_device_for_32768_pairs(compiled_loss):
    assert compiled_loss("ring", 32768).memory_analysis().temp_size_in_bytes <= 100 * 2**20


def test_the_ring_never_gathers(compiled_loss):
    text = compiled_loss("ring", 64).as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text and "all-to-all" not in text and "reduce-scatter" not in text
