"""What is wrong with a set-up and the line that mends it; bus scan; calibration by hand."""
