"""How embeddings become numbers: one file a protocol."""
