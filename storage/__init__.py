"""Objects, datasets and weights: everything that is stored in a directory or a bucket.

Reading order: `uri` and `objects` (bytes in, bytes out), `dataset` (tars + one manifest), `order`
(which sample comes when: pure numpy), `decode` (bytes -> uint8 crop), `stream` (Ray Data runs the
plan), `weights` (what one stage leaves for the next), `pack/` (making a dataset).
"""
