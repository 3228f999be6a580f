"""From a verified image to one that others pull: registry, signature, documents about it, and the release."""
