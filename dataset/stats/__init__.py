"""What is in a data folder, in numbers and a figure."""
