"""Where the work is computed: device, precision, processes and their launch."""
