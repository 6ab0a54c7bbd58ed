"""The command line: parse the options, call the library, show progress, print the result."""
