"""How fast training and evaluation are, beside what the machine's matrix products allow."""
