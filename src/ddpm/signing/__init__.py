"""The signature of a folder by a person's own key."""
