"""Whether a data folder can be trained on."""
