"""The device, the precision, and the processes of a stage."""
