"""Images: from files to shards (`preparing`), checked against limits (`validating`), read as arrays (`reading`)."""
