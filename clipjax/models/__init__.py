"""CLIP's two towers in Flax NNX: `clip.py` holds the model, `vision.py` and `text.py` a tower each."""
