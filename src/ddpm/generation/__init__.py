"""Images from a trained model: from a seed, from a given picture, and pictures of samples for people."""
