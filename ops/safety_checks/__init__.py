"""What `make safety` measures: each module tries to break a few promises and counts how often."""
