"""Peak memory of a child process that a test starts."""

# Code for the child. On Linux not by getrusage: there a child's peak is at least what its parent had when it began it.
PEAK = r"""
import re, resource, sys
def peak():
    "The most resident memory that this process has held, in bytes."
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024
"""
