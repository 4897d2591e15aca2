"""Classify a user's images, or compute their features, on any number of workers.

pieces      images in pieces of a few hundred: files, members of tars, samples of a dataset
listing     find the pieces of what a command line names
prediction  options, and every check that needs no cluster
work        one piece -> pixels -> classes and features
predictor   all pieces, on Ray or in this process
parts       one Parquet file per piece; a second run skips those that are there
one_file    a local --out FILE.csv or FILE.parquet: the parts become one file
output      a table for a terminal, CSV for everything else
command     what the entry script calls
"""
