"""Compare the pictures that come in now with the pictures that the champion was trained on."""
