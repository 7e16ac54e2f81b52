"""The wsipipe commands: parse, call, print. Nothing here computes."""
