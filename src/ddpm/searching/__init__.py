"""A search for better settings: its images, its working folder, and its study."""
