"""One file for each export target."""
