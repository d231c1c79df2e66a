"""The app's own machinery: pages, charts, jobs, caches. The pages are in `apps/views/`.

Streamlit runs `main.py` anew at every click. What is to outlive a click lies in the address (what
is looked at), in caches by content (`cache.py`), in jobs (`jobs/`) or beside the run.
"""
