"""Images: `preparing` makes shards of files, `validating` checks them, `reading` reads them as arrays."""
