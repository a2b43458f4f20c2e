"""Captions to CLIP's token ids and back: the ids of the release, exactly."""

from clipjax.text.tokenizer import END, START, decode, encode, identity, symbols_and_merges, tokenize

__all__ = ["END", "START", "decode", "encode", "identity", "symbols_and_merges", "tokenize"]
