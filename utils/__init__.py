"""From official checkpoint to verified SavedModel. Importing this imports no framework, and no module below.

CONTRIBUTING.md has the map; `conversion` is where to begin reading.
"""
