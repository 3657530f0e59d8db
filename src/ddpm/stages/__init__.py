"""One module per DVC stage: it reads its parameters, calls the packages below, and writes its outputs."""
