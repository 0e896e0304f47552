"""The command line: commands parse, call one service method, and render."""
