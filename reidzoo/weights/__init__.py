"""Where tensors come from: official and own checkpoint files, read without running what they contain."""

from __future__ import annotations

from reidzoo.weights.official import Weights, load_weights, read_metadata, read_weights, save_model

__all__ = ["Weights", "load_weights", "read_metadata", "read_weights", "save_model"]
