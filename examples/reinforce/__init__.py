"""A project of its own that uses `lgrpo_callbacks`."""
