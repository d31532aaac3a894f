"""Speed and memory, measured side by side: `make bench`. Training held to its source. No conversion needs any of it."""
