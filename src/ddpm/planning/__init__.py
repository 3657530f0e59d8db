"""What a training costs, said before it begins: measured on a few real steps, or planned to a given time."""
