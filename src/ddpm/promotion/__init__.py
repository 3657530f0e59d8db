"""Whether a candidate takes over from the champion."""
