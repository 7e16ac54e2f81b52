"""One module per command: opens, streams, calls the layers below, writes."""
