"""The machine: devices, memory and time, and the frameworks' habits on it.

In: nothing. Out: settings of the process, and measurements of it.
Not here: models and files.
"""
