"""Great Expectations checks the prepared data against the limits in params.yaml."""
