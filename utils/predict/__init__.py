"""From photographs to a table of answers, for as many as there are: `python -m utils.predict`.

In: a model of this project in any format, and photographs. Out: Parquet, CSV or JSON lines, a row for each photograph.
"""
