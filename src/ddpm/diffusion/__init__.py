"""The forward process and the training objective: torch only, in the papers' symbols."""
