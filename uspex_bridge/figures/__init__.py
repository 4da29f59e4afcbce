"""Pictures and the report.

It knows matplotlib, plotly and HTML; it does not know USPEX's files, how a hull is built or a model evaluated.
"""
