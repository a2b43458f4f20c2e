"""Pictures: bytes to Pillow images, the released preprocessing, and the training crops."""
