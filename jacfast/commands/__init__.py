"""The commands of the command line, a module each; what they share; the pictures of `plot`."""
