"""One module per DVC stage: reads its params, calls the rooms below, writes its outs."""
