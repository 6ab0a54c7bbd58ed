"""The functions of `import annotate`: one for each command, without the command line."""
