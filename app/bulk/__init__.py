"""Bulk runs: every image of a source becomes one row of a Parquet file, exactly once, whatever is killed meanwhile.

Enters: folders, tar and Parquet files, lists, on disk or in an object store. Leaves: a folder of Parquet parts.
Runs in: the command's process, or in the actors of `app.distributed`, with the decoder and engine processes of the
service.
"""
