"""Report a run as one self-contained HTML page, without network access or scripts.

content    what is shown, gathered from manifests and MLflow
cost       what a stage took: images, operations, bytes
charts     curves as inline SVG; amounts: numbers with units
html       escaped text, tables, pictures
sections   the parts of the page; page: the whole, style: its look
command    `pipelines/report.py`, and the report at the end of a pipeline
"""
