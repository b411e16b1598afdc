"""Base models that need no hub: built once, from code or an installed package, then an ordinary folder in the cache.

Nothing here imports torch or transformers before a model is really built: `launch` asks for names first.
"""

from posttrain_verl.base_models.cache import EMBEDDED, built_folder, ensure_model, has_random_weights, is_embedded

__all__ = ["EMBEDDED", "built_folder", "ensure_model", "has_random_weights", "is_embedded"]
