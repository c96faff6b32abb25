"""`docbatch report`: one run as one HTML page that needs nothing else, neither a server nor a network.

measures.py   rows -> a few hundred numbers, streamed
charts.py     numbers -> plotly figures
page.py       figures, account and examples -> the page (`page.html`)
"""

from batch.report.measures import Measures, measure, own_work
from batch.report.page import Report, render

__all__ = ["Measures", "Report", "measure", "own_work", "render"]
