"""The command line: a file for each section of its help, or for a command with many options.

A command imports what it needs when it runs, so that help is printed without loading torch.
"""
