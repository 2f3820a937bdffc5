"""A clip and a goal in, a reward out."""
