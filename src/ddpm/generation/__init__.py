"""From a trained model to images: of a seed, of a given picture, and pictures for people to look at."""
