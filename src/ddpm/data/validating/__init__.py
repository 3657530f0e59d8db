"""Check the prepared data against the limits in params.yaml with Great Expectations."""
