"""Speed and memory, measured side by side: `make bench`. Nothing here is needed for a conversion."""
