"""What becomes of one job in the worker, as steps over one record; `pipeline.py` has their order."""
