"""What `make bench-serve` measures of policy servers."""
